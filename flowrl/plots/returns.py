"""A picture of what a critic expects: the distribution of the return of the deterministic action at some states."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flowrl.plots.densities import MARK
from flowrl.plots.panels import square_panels

BINS = 48


def return_figure(model: Any, observations: Any) -> Figure:
    """
    Draw the distribution of the return at some states, one panel each; an orange line marks its mean.

    :param model: NFAC, or anything with its ``returns`` and `predict`
    :param observations: a few observations, batch first, as ``model.predict`` takes them
    :return: the figure
    """
    actions, _ = model.predict(observations, deterministic=True)
    values, weights = model.returns(observations, actions)
    figure, grid, _ = square_panels(1, len(values), sharex=True, sharey=True)
    low, high = float(values.min()), float(values.max())
    if low == high:  # critics that agree on one number
        low, high = low - 0.5, high + 0.5
    centers, width = np.linspace(low, high, BINS, retstep=True)
    edges = np.append(centers - width / 2, high + width / 2)
    for i, (axes, atoms, weight) in enumerate(zip(grid[0], values, weights)):
        axes.stairs(_heights(atoms, weight, centers), edges, fill=True, color="#4c72b0")
        axes.axvline((atoms * weight).sum() / weight.sum(), color=MARK, linewidth=1.5)
        axes.set(title=f"state {i + 1}", xlabel="return")
    grid[0, 0].set_ylabel("density")
    return figure


def _heights(atoms: NDArray[Any], weights: NDArray[Any], centers: NDArray[Any]) -> NDArray[Any]:
    """
    The density of equal bins, each atom's weight divided among the two beside it by nearness: where bins hold two atoms
    or three by turns, there would be spikes.
    """
    width = centers[1] - centers[0]
    place = (atoms - centers[0]) / width
    lower = np.clip(np.floor(place).astype(int), 0, len(centers) - 2)
    upper = place - lower
    mass = np.bincount(lower, weights * (1 - upper), len(centers)) + np.bincount(
        lower + 1, weights * upper, len(centers)
    )
    return mass / (width * weights.sum())
