"""What the speed must be: targets for ratios of two contenders' turns, beside what the modes' tables say of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.table import label, ratios, summary
from experiments.reports.results import Row
from experiments.training.tables import read_csv
from flowrl import DEFAULT_FLOW


@dataclass(frozen=True)
class Target:
    """
    A bound on one contender's number divided by another's.

    :param mode: whose table has both
    :param what: the table's case
    :param contender: the label of the one
    :param reference: the label of the other
    :param bound: of the ratio, with AVX-512
    :param without_avx512: the bound on other processors, where it is another
    :param at_most: whether the ratio must be at most the bound; at least it otherwise
    """

    mode: str
    what: str
    contender: str
    reference: str
    bound: float
    without_avx512: float | None = None
    at_most: bool = False

    def row(self, measured: dict[tuple[str, str], Row], avx512: bool) -> Row:
        """
        The target beside what was measured.

        :param measured: the rows of the mode's table, by case and contender
        :param avx512: whether the processor has AVX-512
        :return: a row of the table; its numbers are None where one of the two was not measured
        """
        both = [measured.get((self.what, label), {}) for label in (self.contender, self.reference)]
        values = [[float(value) for value in row.get("values", "").split()] for row in both]
        median, lowest, highest = summary(ratios(*values))
        bound = self.bound if avx512 or self.without_avx512 is None else self.without_avx512
        met = None if median is None else (median <= bound if self.at_most else median >= bound)
        return dict(
            case=f"{self.what}: {self.contender} / {self.reference}",
            unit=both[0].get("unit"),
            target=f"at {'most' if self.at_most else 'least'} {bound:g}",
            ratio=median,
            lowest=lowest,
            highest=highest,
            met=None if met is None else ("yes" if met else "no"),
        )


def _targets() -> Iterator[Target]:
    flow_sac, flow_ppo = f"flowrl SAC, {DEFAULT_FLOW}", f"flowrl PPO, {DEFAULT_FLOW}"
    run_flow_sac = f"run.py flow-sac, {DEFAULT_FLOW}"
    yield Target("sac", "SAC", run_flow_sac, "run.py sac", 3.5, without_avx512=2.5)
    yield Target("sac_cuda", "SAC", flow_sac, "SB3 SAC, Gaussian", 6.0)
    yield Target("sac", "SAC", run_flow_sac, flow_sac, 0.95)
    yield Target("sac", "SAC", flow_sac, "SBX SAC, Gaussian", 1.7, without_avx512=1.4)
    # In steps/s: how many times as slow the flow is.
    yield Target("sac", "SAC", "flowrl SAC, gaussian", flow_sac, 1.08, at_most=True)
    yield Target("sac", "SAC", "run.py flow-sac, gaussian", run_flow_sac, 1.08, at_most=True)
    yield Target("sac", "SAC", "flowrl NFQ, nsf", "flowrl SAC, nsf", 1.0)  # one network less, and one pass
    for what, bound in (("PPO, 1 environment", 2.0), ("PPO, 8 environments", 2.5)):
        yield Target("ppo", what, flow_ppo, "SB3 PPO, Gaussian", bound)
        yield Target("ppo", what, f"run.py flow-ppo, {DEFAULT_FLOW}", "run.py ppo", bound)
    yield Target("ppo", "PPO, 8 environments", flow_ppo, "SBX PPO, Gaussian", 1.5)
    for algorithm in ("SAC", "PPO"):
        for kind in ("sampled", "deterministic"):
            for flow in (DEFAULT_FLOW, "nsf"):
                ours, theirs = f"flowrl {algorithm}, {flow}", f"SB3 {algorithm}, Gaussian"
                yield Target("act", f"{algorithm}, {kind} action", ours, theirs, 0.9, at_most=True)
    # Zuko's coupling in the direction that it computes faster.
    yield Target("transforms", "a sample and its log-prob", "zuko spline coupling, inverted", "flowrl nsf", 5.0)
    yield Target("transforms", "log-prob of given points", "zuko spline coupling", "flowrl nsf", 5.0)
    yield Target("scale", "action dimensions", "flowrl nsf, 64", "flowrl nsf, 8", 2.0, at_most=True)


TARGETS = tuple(_targets())


def rows(directory: Path) -> tuple[list[Row], dict[str, Any]]:
    """
    All targets of the modes that a directory has results of.

    :param directory: where ``speed_MODE.csv`` and ``.json`` are
    :return: the rows, and how each mode's results were made
    """
    table: list[Row] = []
    made: dict[str, Any] = {}
    for mode in dict.fromkeys(target.mode for target in TARGETS):
        path = directory / f"speed_{mode}.csv"
        if not path.exists():
            continue
        made[mode] = json.loads(path.with_suffix(".json").read_text())
        measured = {(row["what"], label(row)): row for row in read_csv(path)}
        avx512 = made[mode]["machine"].get("instructions") == "AVX512"
        table += [target.row(measured, avx512) for target in TARGETS if target.mode == mode]
    return table, made


def show(table: list[Row]) -> str:
    """
    The table as text.

    :param table: its rows
    :return: a line a target, under a heading
    """
    width = max(len(row["case"]) for row in table)
    lines = [f"  {'target':<{width}} {'':<8} {'':<13} ratio (lowest to highest)"]
    for row in table:
        ratio = "not measured"
        if row["ratio"] is not None:
            missed = "" if row["met"] == "yes" else "   missed"
            ratio = f"{row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f}){missed}"
        lines.append(f"  {row['case']:<{width}} {row['unit'] or '':<8} {row['target']:<13} {ratio}")
    return "\n".join(lines)
