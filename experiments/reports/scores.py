"""Returns of many runs, read from tidy tables: `experiments/suite.py` writes them, and so do other people."""

import csv
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
        """Each seed's return at a step, shape ``(n,)``."""
        return self.returns[:, int(np.searchsorted(self.steps, step))]


Curves = dict[tuple[str, str], Curve]
"""By agent and environment."""


def read_curves(path: Path, metric: str) -> Curves:
    """
    Read a tidy table.

    :param path: a CSV file with the columns ``exp_name, env_name, seed, metric, env_step, value``, and maybe others
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
    return curves


def _curve(of_seeds: dict[int, dict[int, float]]) -> Curve | None:
    seeds = tuple(sorted(of_seeds))
    steps = sorted(set.intersection(*(set(of_seeds[seed]) for seed in seeds)))
    if not steps:
        return None
    returns = np.array([[of_seeds[seed][step] for step in steps] for seed in seeds])
    return Curve(seeds, np.array(steps), returns)


def common_step(curves: Curves, environment: str) -> int:
    """The last step at which every agent of an environment was evaluated; 0 where there is none."""
    steps = [set(curve.steps.tolist()) for (_, env), curve in curves.items() if env == environment]
    return max(set.intersection(*steps), default=0)


def agents_of(curves: Curves) -> list[str]:
    """In the order of the table."""
    return list(dict.fromkeys(agent for agent, _ in curves))


def environments_of(curves: Curves) -> list[str]:
    """In the order of the table."""
    return list(dict.fromkeys(environment for _, environment in curves))
