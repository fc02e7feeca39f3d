"""A report's pictures: learning curves by steps and by seconds, and performance profiles."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.reports.learning_curves import COLORS
from experiments.reports.scores import Curve, Curves, agents_of, environments_of
from experiments.reports.statistics import interquartile_mean, performance_profile, returns_at_end, scores_of


def curves_figure(curves: Curves, seconds: Curves, theirs: Mapping[str, Curves]) -> Figure:
    """
    Learning curves, a panel an environment; below each the same over seconds of training, where they are known.

    :param curves: of our agents
    :param seconds: when each evaluation was
    :param theirs: other people's, by what the legend calls them; dashed
    :return: interquartile means over seeds, with 95 % intervals
    """
    environments = environments_of(curves)
    rows = 2 if seconds else 1
    figure = Figure(figsize=(5.2 * len(environments), 3.8 * rows), layout="constrained")
    grid = figure.subplots(rows, len(environments), squeeze=False)
    colors = dict(zip(agents_of(curves), COLORS * len(curves)))
    for i, environment in enumerate(environments):
        for agent, color in colors.items():
            if (agent, environment) not in curves:
                continue
            curve = curves[agent, environment]
            name = f"{agent}, {len(curve.seeds)} seed{'s' if len(curve.seeds) > 1 else ''}"
            draw(grid[0, i], curve, curve.steps, color, name)
            if (agent, environment) in seconds:
                taken = seconds[agent, environment]
                both = np.isin(curve.steps, taken.steps)
                times = np.array([taken.at(step).mean() for step in curve.steps[both]])
                draw(grid[1, i], Curve(curve.seeds, curve.steps[both], curve.returns[:, both]), times, color, name)
        for label, others in theirs.items():
            for (agent, env), curve in others.items():
                if task_of(env) == task_of(environment):
                    until = curve.steps <= curves_end(curves, environment)
                    part = Curve(curve.seeds, curve.steps[until], curve.returns[:, until])
                    draw(grid[0, i], part, part.steps, "#777777", f"{label}: {agent}, {env}", "--")
        grid[0, i].set(title=environment, xlabel="environment steps")
        grid[0, i].xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        grid[0, i].xaxis.set_major_locator(MaxNLocator(4))
        grid[-1, i].set_xlabel("seconds of training" if seconds else "environment steps")
        # Below the axes, where no curve is
        grid[0, i].legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    for axes in grid[:, 0]:
        axes.set_ylabel("evaluation return")
    return figure


def draw(axes: Axes, curve: Curve, x: np.ndarray, color: str, name: str, style: str = "-") -> None:
    """The interquartile mean of a curve's seeds, and its interval where there are several."""
    if not len(x):
        return
    estimate = interquartile_mean(curve.returns[:, None, :])
    axes.plot(x, estimate.value, style, color=color, label=name, linewidth=1.8)
    if len(curve.seeds) > 1:
        axes.fill_between(x, estimate.low, estimate.high, color=color, alpha=0.15, linewidth=0)


def aggregate_figure(curves: Curves, baseline: str) -> Figure | None:
    """
    Performance profiles over all environments of the baseline.

    :param curves: of our agents
    :param baseline: whose mean score is 1 in each environment
    :return: for each threshold the part of runs above it, of agents that are in all of these environments; None where
        the baseline has learned nothing in one of them
    """
    everywhere = {env for agent, env in curves if agent == baseline}
    scores = {}
    for agent in agents_of(curves):
        (returns, _), environments = returns_at_end(curves, [agent, baseline])
        own = scores_of(returns, curves, environments, baseline) if set(environments) == everywhere else None
        if own is not None:
            scores[agent] = own
    if baseline not in scores:
        return None
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    thresholds = np.linspace(0, 1.1 * max(own.max() for own in scores.values()), 101)
    for (agent, own), color in zip(scores.items(), COLORS * len(scores)):
        profile = performance_profile(own, thresholds)
        axes.plot(thresholds, profile.value, color=color, label=f"{agent}, {len(own)} seeds")
        axes.fill_between(thresholds, profile.low, profile.high, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel=f"score (1: {baseline}'s mean)", ylabel="part of runs above")
    axes.set_title(f"{len(everywhere)} environment{'s' if len(everywhere) > 1 else ''}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


def task_of(environment: str) -> str:
    """An environment's name without its version: other people's curves are of other versions."""
    return environment.rpartition("-v")[0] or environment


def curves_end(curves: Curves, environment: str) -> int:
    """The last step of any of our agents in an environment."""
    return max(int(curve.steps[-1]) for (_, env), curve in curves.items() if env == environment)
