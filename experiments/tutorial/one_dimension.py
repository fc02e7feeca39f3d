"""Change of variables where it can be done in the head: y = x + 2 and y = exp(x) of a standard normal x."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.distributions.transforms import AffineTransform, ExpTransform

from flowrl import NormalizingFlow
from flowrl.plots.densities import plot_curve
from flowrl.transforms import TorchTransform

TOLERANCE = 1e-6  # in float32

NOISE = Independent(Normal(torch.zeros(1), 1.0), 1)
SHIFTED = NormalizingFlow(TorchTransform(AffineTransform(2.0, 1.0)), like=torch.zeros(1))
EXPONENTIAL = NormalizingFlow(TorchTransform(ExpTransform()), like=torch.zeros(1))


def check() -> tuple[list[str], bool]:
    """
    The library's densities beside those done by hand.

    :return: lines to print; whether all agree
    """

    def normal(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def density(flow: NormalizingFlow, y: float) -> float:
        return flow.log_prob(torch.tensor([y])).exp().item()

    pairs = [
        ("y = x + 2     p_y(2)", density(SHIFTED, 2.0), "p_x(0)", normal(0)),
        ("              p_y(3)", density(SHIFTED, 3.0), "p_x(1)", normal(1)),
        ("y = exp(x)    p_y(1)", density(EXPONENTIAL, 1.0), "p_x(0) * exp(-0)", normal(0)),
        ("              p_y(2)", density(EXPONENTIAL, 2.0), "p_x(log 2) / 2", normal(math.log(2)) / 2),
    ]
    lines = [f"{name} = {flow:.6f}   {by_hand:<16} = {value:.6f}" for name, flow, by_hand, value in pairs]
    y = torch.linspace(0.1, 5, 50)[:, None]
    error = (EXPONENTIAL.log_prob(y) - (NOISE.log_prob(y.log()) - y.log().squeeze(-1))).abs().max().item()
    lines.append(f"largest |log p_y(y) - (log p_x(log y) - log y)| at 50 points: {error:.0e}")
    return lines, error < TOLERANCE and all(abs(flow - value) < TOLERANCE for _, flow, _, value in pairs)


def picture() -> Figure:
    """The three densities."""
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    axes = figure.subplots(1, 3)
    plot_curve(NOISE, axes[0], -4, 6)
    plot_curve(SHIFTED, axes[1], -4, 6)
    plot_curve(_log_prob_of_exponential, axes[2], -4, 6)
    for panel, title in zip(axes, ("x, standard normal", "y = x + 2", "y = exp(x)")):
        panel.set_title(title, fontsize=10)
        panel.set_ylim(0, 0.7)
    return figure


def _log_prob_of_exponential(y: Tensor) -> Tensor:
    """The log-density of exp(x) on all of R, minus infinity where there is no y, ``(n, 1) -> (n,)``."""
    return torch.where(y.squeeze(-1) > 0, EXPONENTIAL.log_prob(y.clamp_min(1e-6)), -math.inf)
