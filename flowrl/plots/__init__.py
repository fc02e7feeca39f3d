"""Pictures: densities and samples of two dimensions, and what a policy would do in a few states."""

from flowrl.plots.densities import plot_density, plot_histogram, plot_samples, plot_transform, share_colors
from flowrl.plots.policies import density_figure
from flowrl.plots.returns import return_figure

__all__ = [
    "density_figure",
    "plot_density",
    "plot_histogram",
    "plot_samples",
    "plot_transform",
    "return_figure",
    "share_colors",
]
