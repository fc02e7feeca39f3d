"""What holds of a few seeds: interquartile means, intervals and probabilities of improvement (Agarwal et al. 2021).

"Deep Reinforcement Learning at the Edge of the Statistical Precipice"; its library, rliable, computes all of it.
Intervals are 95 % percentile intervals of a bootstrap over seeds, stratified by environment.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.reports.scores import Curves, common_step, environments_of
from experiments.training.errors import UsageError

REPETITIONS = 2_000
SEED = 0  # of the bootstrap: the same table gives the same report


class Estimate(NamedTuple):
    """A number, or one for each step or threshold, and its interval."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def load_rliable() -> tuple[Any, Any]:
    """Its ``library`` and ``metrics``."""
    try:
        from rliable import library, metrics
    except ImportError:
        raise UsageError("the report needs the 'suite' extra: pip install -e '.[suite]'") from None
    return library, metrics


def interquartile_mean(returns: NDArray[np.float64]) -> Estimate:
    """
    At each step the mean of the middle half of seeds and environments; of fewer than four numbers, of all.

    :param returns: shape ``(seeds, environments, steps)``
    :return: shape ``(steps,)``
    """
    library, _ = load_rliable()

    def at_each_step(scores: NDArray[np.float64]) -> NDArray[np.float64]:  # rliable's aggregate_iqm, all steps at once
        ordered = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
        quarter = len(ordered) // 4
        return ordered[quarter : len(ordered) - quarter].mean(0)

    return _estimate(library, returns, at_each_step)


def probability_of_improvement(ours: NDArray[np.float64], baseline: NDArray[np.float64]) -> Estimate:
    """
    That a run of ours is better than one of the baseline in an environment drawn at random.

    :param ours: shape ``(seeds, environments)``
    :param baseline: the same, of as many seeds or not
    :return: shape ``(1,)``
    """
    library, metrics = load_rliable()

    def improvement(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([metrics.probability_of_improvement(x, y)])

    return _estimate(library, [ours, baseline], improvement)


def performance_profile(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> Estimate:
    """
    The part of all runs whose score is above each threshold.

    :param scores: shape ``(seeds, environments)``
    :param thresholds: shape ``(n,)``
    :return: shape ``(n,)``
    """
    library, _ = load_rliable()

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


def scores_at_end(curves: Curves, baseline: str) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """
    Returns on one scale for all environments: 0 where the worst run of any agent began, 1 where the baseline ended.

    The end is the last step that all agents of an environment have reached.

    :param curves: of all agents
    :param baseline: an agent
    :return: of each agent that is in every environment of the baseline, shape ``(seeds, environments)`` with as many
        seeds as it has in all of them; and these environments
    """
    environments = [env for env in environments_of(curves) if (baseline, env) in curves and common_step(curves, env)]
    if not environments:
        raise UsageError(f"there is no agent {baseline!r} to compare with: --baseline names it")
    columns: dict[str, list[NDArray[np.float64]]] = {}
    for environment in environments:
        here = {agent: curve for (agent, env), curve in curves.items() if env == environment}
        step = common_step(curves, environment)
        begun = min(curve.returns[:, 0].min() for curve in here.values())
        scale = here[baseline].at(step).mean() - begun
        for agent, curve in here.items():
            columns.setdefault(agent, []).append((curve.at(step) - begun) / scale)
    complete = {agent: own for agent, own in columns.items() if len(own) == len(environments)}
    cut = {agent: min(map(len, own)) for agent, own in complete.items()}
    return {agent: np.stack([one[: cut[agent]] for one in own], 1) for agent, own in complete.items()}, environments
