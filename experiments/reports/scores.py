"""Returns of many runs, read from tidy tables: `experiments/suite.py` writes them, and so do other people."""

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.training.errors import UsageError

COLUMNS = ("exp_name", "env_name", "seed", "metric", "env_step", "value")


@dataclass(frozen=True)
class Curve:
    """
    The learning curves of an agent in an environment, at the steps that all of its seeds have reached.

    :param seeds: shape ``(n,)``
    :param steps: in increasing order, shape ``(m,)``
    :param returns: shape ``(n, m)``
    """

    seeds: tuple[int, ...]
    steps: NDArray[np.int64]
    returns: NDArray[np.float64]

    def at(self, step: int) -> NDArray[np.float64]:
        """Each seed's return at the last evaluation that is no later than a step, shape ``(n,)``."""
        return self.returns[:, self._last(step)]

    def is_near(self, step: int, distance: float) -> bool:
        """Whether there is an evaluation that is no later than a step, and earlier by less than a distance."""
        i = self._last(step)
        return i >= 0 and bool(step - self.steps[i] < distance)

    def interval(self) -> float:
        """Steps between two evaluations."""
        return float(np.median(np.diff(self.steps, prepend=0)))

    def _last(self, step: int) -> int:
        return int(np.searchsorted(self.steps, step, side="right")) - 1


Curves = dict[tuple[str, str], Curve]
"""By agent and environment."""


def read_curves(path: Path, metric: str) -> Curves:
    """
    Read a tidy table.

    :param path: a CSV file with the columns ``exp_name, env_name, seed, metric, env_step, value``, and maybe others; a
        value that is empty or NaN was not measured
    :param metric: the one to read (``avg_return``)
    :return: the curves
    :raises UsageError: for another file, and where the metric is not in it
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): experiments/suite.py writes such tables") from None
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise UsageError(f"{path} is no table of results: its columns must be {', '.join(COLUMNS)}")
    rows = [row for row in rows if (row["value"] or "nan").lower() != "nan"]  # what was not measured
    values: dict[tuple[str, str], dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["metric"] == metric:
            of_agent = values[row["exp_name"], row["env_name"]]
            of_agent[int(float(row["seed"]))][int(float(row["env_step"]))] = float(row["value"])
    if not values:
        metrics = ", ".join(sorted({row["metric"] for row in rows}))
        raise UsageError(f"{path} has no metric {metric!r}, only {metrics}")
    curves = {key: curve for key, of_agent in values.items() if (curve := _curve(of_agent)) is not None}
    if not curves:
        raise UsageError(f"{path}: the seeds of no agent were evaluated at a step in common")
    for agent, environment in [key for key in values if key not in curves]:
        said = f"{path}: the seeds of {agent} in {environment} were evaluated at no step in common"
        print(f"warning: {said}: it is left out", file=sys.stderr)
    return curves


def _curve(of_seeds: dict[int, dict[int, float]]) -> Curve | None:
    seeds = tuple(sorted(of_seeds))
    steps = sorted(set.intersection(*(set(of_seeds[seed]) for seed in seeds)))
    if not steps:
        return None
    returns = np.array([[of_seeds[seed][step] for step in steps] for seed in seeds])
    return Curve(seeds, np.array(steps), returns)


def common_step(curves: Curves, environment: str) -> int:
    """
    The last step at which every agent of an environment was evaluated; 0 where there is none.

    Several environments side by side are evaluated at the next multiple of their number: steps that are less than half
    an evaluation interval apart count as one, the latest of them, and each agent has its own (:meth:`Curve.at`).
    """
    there = [curve for (_, env), curve in curves.items() if env == environment]
    apart = min(curve.interval() for curve in there) / 2
    steps = sorted({int(step) for curve in there for step in curve.steps}, reverse=True)
    return next((step for step in steps if all(curve.is_near(step, apart) for curve in there)), 0)


def with_common_steps(curves: Curves) -> Curves:
    """
    What can be compared; of the rest it is said that it is left out.

    :param curves: of all agents
    :return: those in environments where all agents have a step in common
    :raises UsageError: where nothing is left
    """
    apart = {environment for environment in environments_of(curves) if not common_step(curves, environment)}
    said = []
    for environment in sorted(apart):
        steps = [f"{agent} at {_few(curve)}" for (agent, env), curve in curves.items() if env == environment]
        said.append(f"{environment}: the agents were evaluated at no step in common ({'; '.join(steps)})")
    rest = {key: curve for key, curve in curves.items() if key[1] not in apart}
    if said and not rest:
        raise UsageError(f"{'. '.join(said)}: train them with the same --eval-every")
    for one in said:
        print(f"warning: {one}: it is left out", file=sys.stderr)
    return rest


def _few(curve: Curve) -> str:
    """Some of its steps."""
    first, last = [f"{step:,}" for step in curve.steps[:3]], f"{curve.steps[-1]:,}"
    return ", ".join(first) if len(curve.steps) <= 3 else f"{', '.join(first)} ... {last}"


def agents_of(curves: Curves) -> list[str]:
    """In the order of the table."""
    return list(dict.fromkeys(agent for agent, _ in curves))


def environments_of(curves: Curves) -> list[str]:
    """In the order of the table."""
    return list(dict.fromkeys(environment for _, environment in curves))
