"""What holds of a few seeds: interquartile means, intervals and probabilities of improvement (Agarwal et al. 2021).

"Deep Reinforcement Learning at the Edge of the Statistical Precipice"; its library, rliable, computes all but the
probabilities of improvement, for which it wants as many seeds in every environment.
Intervals are 95 % percentile intervals of a bootstrap over seeds, stratified by environment.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.reports.scores import Curves, common_step, environments_of
from experiments.training.errors import UsageError

REPETITIONS = 2_000
ENOUGH_SEEDS = 3  # for a claim
SEED = 0  # of the bootstrap: the same table gives the same report


class Estimate(NamedTuple):
    """A number, or one for each step or threshold, and its interval."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def load_rliable() -> Any:
    """Its ``library``."""
    try:
        from rliable import library
    except ImportError:
        raise UsageError("the report needs the 'suite' extra: pip install -e '.[suite]'") from None
    return library


def interquartile_mean(returns: NDArray[np.float64]) -> Estimate:
    """
    At each step the mean of the middle half of seeds and environments; of fewer than four numbers, of all.

    :param returns: shape ``(seeds, environments, steps)``
    :return: shape ``(steps,)``
    """
    library = load_rliable()

    def at_each_step(scores: NDArray[np.float64]) -> NDArray[np.float64]:  # rliable's aggregate_iqm, all steps at once
        ordered = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
        quarter = len(ordered) // 4
        return ordered[quarter : len(ordered) - quarter].mean(0)

    return _estimate(library, returns, at_each_step)


def probability_of_improvement(
    ours: Sequence[NDArray[np.float64]], baseline: Sequence[NDArray[np.float64]]
) -> Estimate:
    """
    That a run of ours is better than one of the baseline in an environment drawn at random.

    :param ours: of each environment the returns of its seeds
    :param baseline: the same, of as many seeds or not
    :return: shape ``(1,)``
    """
    # Of each environment, whether each run of ours is above each of the baseline: 1, or a half where they are level
    wins = [np.heaviside(x[:, None] - y, 0.5) for x, y in zip(ours, baseline, strict=True)]
    random = np.random.default_rng(SEED)
    drawn = np.zeros(REPETITIONS)
    for of_environment in wins:
        rows, columns = (random.integers(n, size=(REPETITIONS, n)) for n in of_environment.shape)
        drawn += of_environment[rows[:, :, None], columns[:, None, :]].mean((1, 2)) / len(wins)
    value = np.mean([of_environment.mean() for of_environment in wins])
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(*(np.array([number]) for number in (value, low, high)))


def performance_profile(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> Estimate:
    """
    The part of all runs whose score is above each threshold.

    :param scores: shape ``(seeds, environments)``
    :param thresholds: shape ``(n,)``
    :return: shape ``(n,)``
    """
    library = load_rliable()

    def above(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x[..., None] > thresholds).mean((0, 1))

    return _estimate(library, scores, above)


def _estimate(library: Any, scores: Any, function: Any) -> Estimate:
    state = np.random.get_state()  # rliable draws from NumPy's global generator
    np.random.seed(SEED)
    try:
        value, interval = library.get_interval_estimates(dict(one=scores), function, reps=REPETITIONS)
    finally:
        np.random.set_state(state)
    return Estimate(value["one"], *interval["one"])


def returns_by_environment(curves: Curves, agents: list[str]) -> tuple[dict[str, list[NDArray[np.float64]]], list[str]]:
    """
    Returns at the last step that all agents of an environment have reached.

    :param curves: of all agents
    :param agents: some of them
    :return: of each agent one array of shape ``(seeds,)`` for each environment; and the environments that all of them
        are in
    """
    environments = [
        environment
        for environment in environments_of(curves)
        if all((agent, environment) in curves for agent in agents) and common_step(curves, environment)
    ]
    returns = {
        agent: [curves[agent, environment].at(common_step(curves, environment)) for environment in environments]
        for agent in agents
    }
    return returns, environments


def returns_at_end(curves: Curves, agents: list[str]) -> tuple[list[NDArray[np.float64]], list[str]]:
    """
    As :func:`returns_by_environment`, in arrays.

    :param curves: of all agents
    :param agents: some of them
    :return: of each agent, shape ``(seeds, environments)``, with as many seeds as it has in all of these environments;
        and the environments
    """
    returns, environments = returns_by_environment(curves, agents)
    stacked = []
    for agent in agents:
        own = returns[agent]
        fewest = min(map(len, own), default=0)
        stacked.append(np.stack([one[:fewest] for one in own], 1) if own else np.empty((0, 0)))
    return stacked, environments


def scores_of(returns: NDArray[np.float64], curves: Curves, environments: list[str], baseline: str) -> Any:
    """
    Returns on one scale: 0 is the worst first evaluation of any agent in an environment, 1 where the baseline ended.

    :param returns: at the end, shape ``(seeds, environments)``
    :param curves: of all agents
    :param environments: of the columns
    :param baseline: an agent that is in all of them
    :return: shape ``(seeds, environments)``; None where the baseline ended no higher than that in one of them
    """
    columns = []
    for i, environment in enumerate(environments):
        zero = min(curve.returns[:, 0].min() for (_, env), curve in curves.items() if env == environment)
        scale = curves[baseline, environment].at(common_step(curves, environment)).mean() - zero
        if scale <= 0:
            return None
        columns.append((returns[:, i] - zero) / scale)
    return np.stack(columns, 1)
