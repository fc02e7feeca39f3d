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
    edges = np.histogram_bin_edges(values.astype(np.float64), BINS)  # around a single value, too
    edges = np.array([2 * edges[0] - edges[1], *edges, 2 * edges[-1] - edges[-2]])
    for i, (axes, atoms, weight) in enumerate(zip(grid[0], values, weights)):
        axes.stairs(_density(atoms, weight, edges), edges, fill=True, color="#4c72b0")
        axes.axvline((atoms * weight).sum() / weight.sum(), color=MARK, linewidth=1.5)
        axes.set(title=f"state {i + 1}", xlabel="return")
    grid[0, 0].set_ylabel("density")
    return figure


def _density(atoms: NDArray[Any], weights: NDArray[Any], edges: NDArray[Any]) -> NDArray[Any]:
    """The density of bins, each atom spread over half the ways to its neighbours: equal bins need not hold equally many
    equally distant atoms."""
    at, index = np.unique(atoms, return_inverse=True)
    mass = np.bincount(index, weights)
    up_to = np.cumsum(mass) - mass / 2
    return np.diff(np.interp(edges, at, up_to, left=0.0, right=mass.sum())) / np.diff(edges) / mass.sum()
