"""Pictures of densities, samples and transforms of one and two variables, on matplotlib axes.

A density is given as a distribution with ``log_prob`` (this library's, torch's, zuko's) or as its log-density alone. In
two dimensions colour grows with the density's square root: flows make high, narrow ridges, beside which the rest would
look empty. White is no density; the darkest blue is the panel's own peak, or that of several panels after
:func:`share_colors`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

# Sequential, from the background's white: zero density looks like nothing.
COLORS = "Blues"
LINE = "#08519c"
MARK = "#d95f02"
POINTS_AT_ONCE = 16_384  # whose log-density is evaluated together

Density = Any
"""A distribution with ``log_prob``, or a function from points, ``(n, d)``, to log-densities, ``(n,)``."""

Side = float | Sequence[float]
"""A number for both axes, or one for each."""


def plot_curve(density: Density, axes: Axes, low: float = -4.0, high: float = 4.0, points: int = 512) -> None:
    """
    Draw a density of one variable.

    :param density: a distribution over vectors of size 1, or its log-density ``(n, 1) -> (n,)``
    :param axes: where
    :param low: left end
    :param high: right end
    :param points: resolution
    """
    x = _centers(low, high, points)
    height = _density(density, x[:, None])
    axes.fill_between(x, height, color=LINE, alpha=0.2, linewidth=0)
    axes.plot(x, height, color=LINE)
    axes.set_xlim(low, high)
    axes.set_ylim(0, None)


def plot_histogram(samples: NDArray[Any], axes: Axes, low: float = -4.0, high: float = 4.0, bins: int = 64) -> None:
    """
    Draw a histogram of samples of one variable, in units of a density, as :func:`plot_curve` draws a density.

    :param samples: shape ``(n,)``
    :param axes: where
    :param low: left end
    :param high: right end
    :param bins: how many
    """
    height, _ = np.histogram(samples, bins=bins, range=(low, high))
    x, height = _centers(low, high, bins), height * bins / ((high - low) * len(samples))
    axes.fill_between(x, height, color=LINE, alpha=0.2, linewidth=0, step="mid")
    axes.plot(x, height, color=LINE, drawstyle="steps-mid")
    axes.set_xlim(low, high)
    axes.set_ylim(0, None)


def plot_density(density: Density, axes: Axes, low: Side = -4.0, high: Side = 4.0, points: int = 128) -> None:
    """
    Draw a density of two variables.

    :param density: a distribution over vectors of size 2, or its log-density ``(n, 2) -> (n,)``
    :param axes: where
    :param low: lower left corner
    :param high: upper right corner
    :param points: resolution along each side
    """
    low, high = _corners(low, high)
    x, y = (_centers(low[i], high[i], points) for i in range(2))
    grid = np.stack(np.meshgrid(x, y), axis=-1)  # (points, points, 2)
    height = _density(density, grid.reshape(-1, 2)).reshape(points, points)
    _show(height, axes, low, high, "bilinear")


def plot_samples(
    samples: Any, axes: Axes, low: Side = -4.0, high: Side = 4.0, bins: int = 40, n_samples: int = 16_384
) -> None:
    """
    Draw a histogram of samples of two variables, in units of a density.

    :param samples: shape ``(n, 2)``, or a distribution to draw them from
    :param axes: where
    :param low: lower left corner
    :param high: upper right corner
    :param bins: bins along each side
    :param n_samples: how many to draw from a distribution
    """
    if callable(getattr(samples, "sample", None)):
        with torch.no_grad():
            samples = samples.sample((n_samples,))
    samples = torch.as_tensor(samples).detach().cpu().numpy()
    if samples.ndim != 2 or samples.shape[-1] != 2:
        raise ValueError(f"samples must have shape (n, 2), or come from one distribution over pairs: {samples.shape}.")
    low, high = _corners(low, high)
    edges = [np.linspace(low[i], high[i], bins + 1) for i in range(2)]
    counts = np.histogram2d(samples[:, 0], samples[:, 1], bins=edges)[0]
    cell = (high - low).prod() / bins**2
    height = counts.T / (cell * len(samples))
    _show(height, axes, low, high, "nearest")


def share_colors(axes: Sequence[Axes], peak: Callable[[list[float]], float] = max) -> ScalarMappable:
    """
    Let the same colour mean the same density in several panels of :func:`plot_density` and :func:`plot_samples`.

    :param axes: of the panels
    :param peak: which of the panels' peaks gets the darkest colour: ``max``, ``np.median``, ...
    :return: what ``figure.colorbar`` takes
    """
    images = [image for panel in axes for image in panel.images]
    norm = PowerNorm(0.5, 0.0, peak([image.get_clim()[1] or 1.0 for image in images]))
    for image in images:
        image.set_norm(norm)
    return images[0]


def plot_transform(
    transform: Callable[[Tensor], Tensor],
    axes: Axes,
    low: Side = -3.0,
    high: Side = 3.0,
    lines: int = 25,
    points: int = 200,
) -> None:
    """
    Draw what a transform makes of a square grid: blue lines were vertical, orange ones horizontal.

    :param transform: a map of the plane, ``(n, 2) -> (n, 2)``: this library's, torch's, or zuko's ``.inv``; it gets the
        points in torch's default dtype and on its default device
    :param axes: where; the view fits the image of the grid
    :param low: the grid's lower left corner
    :param high: its upper right corner
    :param lines: how many each way
    :param points: of each line
    """
    low, high = _corners(low, high)
    along = [np.linspace(low[i], high[i], points) for i in range(2)]
    at = [np.linspace(low[i], high[i], lines) for i in range(2)]
    vertical = np.stack(np.meshgrid(at[0], along[1], indexing="ij"), axis=-1)  # (lines, points, 2)
    horizontal = np.stack(np.meshgrid(along[0], at[1], indexing="xy"), axis=-1)
    for grid, color in ((vertical, LINE), (horizontal, MARK)):
        with torch.no_grad():
            image = transform(torch.as_tensor(grid.reshape(-1, 2), dtype=torch.get_default_dtype())).cpu().numpy()
        axes.add_collection(LineCollection(list(image.reshape(lines, points, 2)), colors=color, linewidths=0.6))
    axes.autoscale_view()
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_box_aspect(1)
    _ticks(axes)


def _corners(low: Side, high: Side) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.broadcast_to(low, 2), np.broadcast_to(high, 2)


def _centers(low: float, high: float, points: int) -> NDArray[Any]:
    """The centres of equal cells: strictly inside the box, on whose edge a squashed density is not defined."""
    return low + (high - low) * (np.arange(points) + 0.5) / points


@torch.no_grad()
def _density(density: Density, points: NDArray[Any]) -> NDArray[Any]:
    """The density at points, shape ``(n,)``; a distribution gets them in the dtype and on the device of its samples."""
    log_prob, like = density, torch.empty(0)
    if hasattr(density, "log_prob"):
        log_prob, like = density.log_prob, density.sample()
        if like.shape != points.shape[1:]:
            raise ValueError(
                f"density must be one distribution over vectors of size {points.shape[1]}, "
                f"got one whose samples have shape {tuple(like.shape)}."
            )
    parts = torch.as_tensor(points).to(like).split(POINTS_AT_ONCE)
    return torch.cat([log_prob(part).exp() for part in parts]).cpu().numpy()


def peak_of(height: NDArray[Any]) -> float:
    """The highest density; 1 where none is seen: one that has collapsed onto a point lies between those of a grid."""
    return float(height[np.isfinite(height)].max(initial=0.0)) or 1.0


def _show(height: NDArray[Any], axes: Axes, low: NDArray[Any], high: NDArray[Any], interpolation: str) -> None:
    """Show a density on the whole box, drawn square however its sides are scaled."""
    extent = (low[0], high[0], low[1], high[1])
    look: Any = dict(origin="lower", aspect="auto", interpolation=interpolation)
    axes.imshow(height, cmap=COLORS, norm=PowerNorm(0.5, 0.0, peak_of(height)), extent=extent, **look)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_box_aspect(1)
    _ticks(axes)


def _ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
