"""Pictures of action densities: a curve for one action, filled contours for two, histograms of pairs for more.

The three `draw_*` functions take matplotlib axes and know nothing of policies; `density_figure` draws a policy.
In two dimensions colour grows with the density's square root: squashed densities have high, narrow ridges at the
edges of the box, beside which the rest would look empty.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from flowrl.density import action_log_prob, sample_actions

# Sequential, from the background's white: zero density looks like nothing.
COLORS = "Blues"
LINE = "#08519c"
MARK = "#d95f02"
MAX_PAIRS = 4
SAMPLES_AT_ONCE = 256

LogProb = Callable[[Tensor], Tensor]  # (batch, d) -> (batch,)


def draw_curve(axes: Axes, log_prob: LogProb, low: float, high: float, points: int = 512) -> None:
    """
    Draw a density of one variable.

    :param axes: where
    :param log_prob: the log-density, ``(batch, 1) -> (batch,)``
    :param low: left end
    :param high: right end
    :param points: resolution
    """
    x = _centers(low, high, points)
    density = _density(log_prob, x[:, None])
    axes.fill_between(x, density, color=LINE, alpha=0.2, linewidth=0)
    axes.plot(x, density, color=LINE)
    axes.set_xlim(low, high)
    axes.set_ylim(0, None)


def draw_contours(
    axes: Axes, log_prob: LogProb, low: Sequence[float], high: Sequence[float], points: int = 128
) -> None:
    """
    Draw a density of two variables.

    :param axes: where
    :param log_prob: the log-density, ``(batch, 2) -> (batch,)``
    :param low: lower left corner
    :param high: upper right corner
    :param points: resolution along each side
    """
    x, y = (_centers(low[i], high[i], points) for i in range(2))
    grid = np.stack(np.meshgrid(x, y), axis=-1)  # (points, points, 2)
    density = _density(log_prob, grid.reshape(-1, 2)).reshape(points, points)
    # A density that has collapsed onto a point is below the grid's resolution: nothing to draw but its samples.
    top = density.max() if np.isfinite(density.max()) and density.max() > 0 else 1.0
    axes.contourf(x, y, density, levels=top * np.linspace(0, 1, 15) ** 2, cmap=COLORS, norm=PowerNorm(0.5))
    _frame(axes, low, high)


def draw_samples(
    axes: Axes, samples: NDArray[Any], low: Sequence[float], high: Sequence[float], bins: int = 40
) -> None:
    """
    Draw a histogram of samples of two variables.

    :param axes: where
    :param samples: shape ``(n, 2)``
    :param low: lower left corner
    :param high: upper right corner
    :param bins: bins along each side
    """
    edges = [np.linspace(low[i], high[i], bins + 1) for i in range(2)]
    axes.hist2d(samples[:, 0], samples[:, 1], bins=edges, cmap=COLORS, norm=PowerNorm(0.5), rasterized=True)
    _frame(axes, low, high)


@torch.no_grad()
def density_figure(policy: BasePolicy, observations: Any, n_samples: int = 4_096) -> Figure:
    """
    Draw a policy's action density at some states, one column each; an orange cross marks the deterministic action.

    :param policy: a flow policy, or one of Stable-Baselines3's with a diagonal Gaussian
    :param observations: a few observations, batch first, as ``policy.predict`` takes them
    :param n_samples: how many actions the histograms are made of (from three dimensions on)
    :return: the figure
    """
    low, high = policy.action_space.low.flatten(), policy.action_space.high.flatten()  # type: ignore[attr-defined]
    dimensions = len(low)
    obs = policy.obs_to_tensor(observations)[0]
    modes = policy.predict(observations, deterministic=True)[0].reshape(-1, dimensions)
    pairs = _pairs(dimensions)
    rows, columns = max(len(pairs), 1), len(modes)
    figure = Figure(figsize=(3.1 * columns + 0.3, 2.9 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for column, mode in enumerate(modes):
        state = _select(obs, column)

        def log_prob(actions: Tensor, state: Any = state) -> Tensor:
            return action_log_prob(policy, state, actions.to(policy.device))

        grid[0, column].set_title(f"state {column + 1}", fontsize=10)
        if dimensions == 1:
            axes = grid[0, column]
            draw_curve(axes, log_prob, low[0], high[0])
            axes.plot(mode[0], 0, "x", color=MARK, clip_on=False, zorder=3, markersize=8, markeredgewidth=2)
            axes.set_xlabel("action")
            if column == 0:
                axes.set_ylabel("density")
            continue
        samples = _sample(policy, state, n_samples) if dimensions > 2 else None
        for row, (i, j) in enumerate(pairs):
            axes = grid[row, column]
            box = (low[[i, j]], high[[i, j]])
            if samples is None:
                draw_contours(axes, log_prob, *box)
            else:
                draw_samples(axes, samples[:, [i, j]], *box)
            axes.plot(mode[i], mode[j], "x", color=MARK, clip_on=False, markersize=8, markeredgewidth=2)
            axes.set_xlabel(f"action {i + 1}")
            if column == 0:
                axes.set_ylabel(f"action {j + 1}")
    return figure


def _pairs(dimensions: int) -> list[tuple[int, int]]:
    """Pairs of neighbouring dimensions that cover them all, up to ``MAX_PAIRS``."""
    starts = [min(i, dimensions - 2) for i in range(0, dimensions, 2)] if dimensions > 1 else []
    return [(i, i + 1) for i in starts][:MAX_PAIRS]


def _centers(low: float, high: float, points: int) -> NDArray[Any]:
    """The centres of equal cells: strictly inside the box, on whose edge a squashed density is not defined."""
    return low + (high - low) * (np.arange(points) + 0.5) / points


def _density(log_prob: LogProb, points: NDArray[Any]) -> NDArray[Any]:
    return log_prob(torch.as_tensor(points, dtype=torch.float32)).exp().cpu().numpy()


def _frame(axes: Axes, low: Sequence[float], high: Sequence[float]) -> None:
    """Show the whole box, drawn square however its sides are scaled."""
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_box_aspect(1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))


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
