"""Densities of two actions side by side, on one colour scale."""

from typing import Any

from matplotlib.figure import Figure

from flowrl.plots.densities import plot_density, share_colors


def density_panels(panels: list[tuple[str, Any]]) -> Figure:
    """
    :param panels: titles, and log-densities over [-1, 1]^2
    :return: a row of pictures with a colour bar
    """
    figure = Figure(figsize=(3.4 * len(panels) + 0.8, 3.8), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, log_density) in zip(row, panels):
        plot_density(log_density, axes, -1.0, 1.0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("action 1")
    row[0].set_ylabel("action 2")
    figure.colorbar(share_colors(row), ax=row, label="density", shrink=0.85, pad=0.01)
    return figure
