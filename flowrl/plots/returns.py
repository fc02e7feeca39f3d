"""A picture of what a critic expects: the distribution of the return of the deterministic action at some states."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from flowrl.critics.heads import Atoms, CategoricalHead
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
    middle, bound = (values.max() + values.min()) / 2, (values.max() - values.min()) / 2 or 0.5
    # Bins that hold two atoms or three by turns would have spikes: each atom is divided among the two beside it
    atoms_of_each = Atoms(torch.as_tensor(values - middle).double(), torch.as_tensor(weights).double())
    mass = CategoricalHead(float(bound), BINS).project(atoms_of_each).numpy()
    width = 2 * bound / (BINS - 1)
    edges = middle - bound + width * (np.arange(BINS + 1) - 0.5)
    for i, (axes, atoms, weight) in enumerate(zip(grid[0], values, weights)):
        axes.stairs(mass[i] / (width * weight.sum()), edges, fill=True, color="#4c72b0")
        axes.axvline((atoms * weight).sum() / weight.sum(), color=MARK, linewidth=1.5)
        axes.set(title=f"state {i + 1}", xlabel="return")
    grid[0, 0].set_ylabel("density")
    return figure
