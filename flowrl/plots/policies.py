"""Pictures of a policy's action density: a curve for one action, a density for two, histograms of pairs for more."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from flowrl.plots.densities import MARK, peak_of, plot_curve, plot_density, plot_histogram, plot_samples, share_colors
from flowrl.plots.panels import square_panels
from flowrl.policies.density import action_log_prob, has_density, sample_actions

MAX_PAIRS = 4
SAMPLES_AT_ONCE = 256


@torch.no_grad()
def density_figure(policy: BasePolicy, observations: Any, n_samples: int = 4_096) -> Figure:
    """
    Draw a policy's action density at some states, one column each; an orange cross marks the deterministic action.

    Along a row, the same colour (or height) is the same density. Where the policy does not know it (a flow with noise
    layers), histograms of samples take its place.

    :param policy: a flow policy, or one of Stable-Baselines3's with a diagonal Gaussian
    :param observations: a few observations, batch first, as ``policy.predict`` takes them
    :param n_samples: how many actions the histograms are made of (from three dimensions on, or without a density)
    :return: the figure
    """
    low, high = policy.action_space.low.flatten(), policy.action_space.high.flatten()  # type: ignore[attr-defined]
    dimensions = len(low)
    obs = policy.obs_to_tensor(observations)[0]
    modes = policy.predict(observations, deterministic=True)[0].reshape(-1, dimensions)
    pairs = _pairs(dimensions)
    rows, columns = max(len(pairs), 1), len(modes)
    figure, grid, bars = square_panels(rows, columns, color_bars=dimensions > 1, sharex="row", sharey="row")
    for column, mode in enumerate(modes):
        state = _select(obs, column)

        def log_prob(actions: Tensor, state: Any = state) -> Tensor:
            return action_log_prob(policy, state, actions.to(policy.device))

        grid[0, column].set_title(f"state {column + 1}")
        samples = _sample(policy, state, n_samples) if dimensions > 2 or not has_density(policy) else None
        if dimensions == 1:
            if samples is None:
                plot_curve(log_prob, grid[0, column], low[0], high[0])
            else:
                plot_histogram(samples[:, 0], grid[0, column], low[0], high[0])
            _mark(grid[0, column], mode[0], 0)
            continue
        for axes, (i, j) in zip(grid[:, column], pairs):
            box = (low[[i, j]], high[[i, j]])
            if samples is None:
                plot_density(log_prob, axes, *box)
            else:
                plot_samples(samples[:, [i, j]], axes, *box)
            _mark(axes, mode[i], mode[j])
            axes.set(xticks=np.linspace(low[i], high[i], 3), yticks=np.linspace(low[j], high[j], 3))
    if dimensions == 1:
        heights = np.stack([axes.lines[0].get_ydata() for axes in grid[0]])
        grid[0, 0].set(ylabel="density", ylim=(0, 1.05 * peak_of(heights)))
        for axes in grid[0]:
            axes.set_xlabel("action")
    for row, (i, j), bar in zip(grid, pairs, bars):
        row[0].set_ylabel(f"action {j + 1}")
        for axes in row:
            axes.set_xlabel(f"action {i + 1}")
        # Not the highest peak: beside a state whose action is certain, the others would look empty.
        figure.colorbar(share_colors(row, np.median), cax=bar, label="density", extend="max")
    return figure


def _mark(axes: Axes, x: float, y: float) -> None:
    axes.plot(x, y, "x", color=MARK, clip_on=False, zorder=3, markersize=8, markeredgewidth=2)


def _pairs(dimensions: int) -> list[tuple[int, int]]:
    """Pairs of neighbouring dimensions that cover them all, up to ``MAX_PAIRS``."""
    starts = [min(i, dimensions - 2) for i in range(0, dimensions, 2)] if dimensions > 1 else []
    return [(i, i + 1) for i in starts][:MAX_PAIRS]


def _select(obs: Any, index: int) -> Any:
    if isinstance(obs, dict):
        return {key: value[index : index + 1] for key, value in obs.items()}
    return obs[index : index + 1]


def _sample(policy: BasePolicy, state: Any, n: int) -> NDArray[Any]:
    """Actions in one state, a few at a time: an image would otherwise stand in memory n times."""
    batches = [sample_actions(policy, _repeat(state, SAMPLES_AT_ONCE)) for _ in range(-(-n // SAMPLES_AT_ONCE))]
    return torch.cat(batches).cpu().numpy()


def _repeat(obs: Any, times: int) -> Any:
    """The same state many times, without copying it."""
    if isinstance(obs, dict):
        return {key: value.expand(times, *value.shape[1:]) for key, value in obs.items()}
    return obs.expand(times, *obs.shape[1:])
