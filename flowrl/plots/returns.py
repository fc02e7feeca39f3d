"""A picture of what a critic expects: the distribution of the return of the deterministic action at some states."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flowrl.plots.densities import MARK

PANEL = 1.5  # inches, each side
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
    figure = Figure(figsize=(PANEL * len(values) + 1.0, PANEL + 0.4), dpi=200, layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False, sharex=True, sharey=True)[0]
    edges = np.histogram_bin_edges(values.astype(np.float64), BINS)  # around a single value, too
    for i, (axes, atoms, weight) in enumerate(zip(panels, values, weights)):
        axes.hist(atoms, edges, weights=weight, density=True, color="#4c72b0")
        axes.axvline((atoms * weight).sum() / weight.sum(), color=MARK, linewidth=1.5)
        axes.set(title=f"state {i + 1}", xlabel="return")
    panels[0].set_ylabel("density")
    return figure
