"""Single transforms of a two-dimensional Gaussian: how each warps the plane, and its log-determinant checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Independent, Normal

from experiments.tutorial.targets.target import midpoints
from flowrl import NormalizingFlow
from flowrl.plots.densities import LINE, plot_density, plot_samples, plot_transform, share_colors
from flowrl.transforms import (
    Affine,
    Autoregressive,
    Continuous,
    Coupling,
    LULinear,
    Planar,
    Radial,
    RationalQuadraticSpline,
    Transform,
    planar_displacement,
)

POINT = (0.5, -0.3)  # where the log-determinant is printed
VIEW = 6.0  # the pictures show [-6, 6]^2
GRID = 2.0  # the grid that is warped covers [-2, 2]^2
REACH, CELLS = 12.0, 600  # of the grid for the integral, [-12, 12]^2
NODES_AT_ONCE = 16_384
INTEGRAL_TOLERANCE = 1e-3


def affine() -> Transform:
    """2 R(45 degrees) = L U."""
    r = math.sqrt(2)
    lower, upper = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[r, -r], [0.0, 2 * r]])
    return LULinear(lower, upper)


def planar() -> Transform:
    """Pushes the two sides of a line apart."""
    w = torch.tensor([2.0, 1.0])
    return Planar(w, planar_displacement(w, torch.tensor([1.5, 0.5])), torch.tensor(0.5))


def radial() -> Transform:
    """Pushes away from a point."""
    return Radial(torch.tensor([0.5, 0.5]), torch.tensor(0.3), torch.tensor(2.0))


def coupling() -> Transform:
    """The first coordinate stays, and says how the second is scaled and shifted."""
    first, second = torch.tensor([0]), torch.tensor([1])
    return Coupling(
        lambda x1: Affine(shift=0.7 * x1.square() - 1, log_scale=-0.5 - 0.3 * x1),
        keep=first,
        change=second,
        back=torch.tensor([0, 1]),
    )


def autoregressive() -> Transform:
    """The first coordinate is scaled; the second moves as the first says."""

    def conditioner(x: Tensor, feature: int | None = None) -> Transform:
        x1 = x[..., 0]
        shift = torch.stack((torch.zeros_like(x1), 1.5 * torch.sin(2 * x1)), -1)
        log_scale = torch.stack((torch.full_like(x1, 0.3), 0.5 * torch.cos(2 * x1) - 0.7), -1)
        part = slice(None) if feature is None else slice(feature, feature + 1)
        return Affine(shift[..., part], log_scale[..., part])

    return Autoregressive(conditioner)


def spline() -> Transform:
    """Four bins for each coordinate, steep in the middle: one bump becomes two by two."""
    widths, heights, slopes = [0.0, -0.2, -0.2, 0.0], [0.0, 0.7, 0.7, 0.0], [-1.0, 1.2, -1.0]
    raw = torch.tensor([widths + heights + slopes])
    return RationalQuadraticSpline(raw.expand(2, -1), bound=3.0)


def whirl(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """
    A velocity that turns and spreads around a point, and dies out away from it.

    :param t: time, on which it does not depend
    :param x: shape ``(*, 2)``
    :return: velocity, shape ``(*, 2)``, and divergence, shape ``(*,)``
    """
    turn, spread, width = 4.0, 0.8, 1.2
    offset = x - torch.tensor([0.7, 0.0])
    square = offset.square().sum(-1) / width**2
    strength = torch.exp(-square / 2)
    x1, x2 = offset.unbind(-1)
    direction = torch.stack((spread * x1 - turn * x2, turn * x1 + spread * x2), -1)
    return strength.unsqueeze(-1) * direction, strength * spread * (2 - square)


def continuous(steps: int = 50) -> Transform:
    """The whirl for a unit of time."""
    return Continuous(whirl, steps)  # type: ignore[arg-type]  # any field that gives its divergence will do


@dataclass(frozen=True)
class Example:
    """
    A transform to show.

    :param build: makes it, in the default dtype
    :param tolerance: of its log-determinant and round trip in float64
    """

    build: Callable[[], Transform]
    tolerance: float = 1e-8


TRANSFORMS: dict[str, Example] = {
    "affine": Example(affine),
    "planar": Example(planar),
    "radial": Example(radial),
    "coupling": Example(coupling),
    "autoregressive": Example(autoregressive),
    "spline": Example(spline),
    "continuous": Example(continuous, tolerance=1e-5),  # that of the solver's steps
}


@dataclass(frozen=True)
class Check:
    """
    What a transform says of itself beside what it does, in float64.

    :param log_det: at :data:`POINT`
    :param by_autograd: log|det| of autograd's Jacobian there
    :param log_det_error: largest difference of the two at 1,000 points
    :param round_trip_error: largest at these points
    :param integral: of the density of Gaussian noise pushed through, by the midpoint rule
    :param tolerance: of the two errors
    """

    log_det: float
    by_autograd: float
    log_det_error: float
    round_trip_error: float
    integral: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the errors are within their tolerance, and the integral is 1."""
        exact = max(self.log_det_error, self.round_trip_error) < self.tolerance
        return exact and abs(self.integral - 1) < INTEGRAL_TOLERANCE

    def lines(self) -> list[str]:
        """As printed in the document."""
        x = ", ".join(f"{value:g}" for value in POINT)
        values = {
            f"log|det| at ({x})": f"{self.log_det:.10f}",
            "by autograd's Jacobian": f"{self.by_autograd:.10f}",
            "largest difference": f"{self.log_det_error:.0e} at 1,000 points",
            "largest error, there and back": f"{self.round_trip_error:.0e}",
            "integral of the density": f"{self.integral:.6f}",
        }
        return [f"{name:<31}{value}" for name, value in values.items()]


def check(example: Example) -> Check:
    """
    Measure a transform.

    :param example: the transform
    """
    with float64():
        transform, x = example.build(), points()
        with torch.no_grad():
            y, log_det = transform.call_and_ladj(x)
            x_back, log_det_back = transform.inverse_and_ladj(y)
            nodes, cell = midpoints(REACH, CELLS)
            log_prob = NormalizingFlow(transform, like=torch.zeros(2)).log_prob
            integral = cell * sum(log_prob(part).exp().sum().item() for part in nodes.split(NODES_AT_ONCE))
        by_autograd = log_det_by_autograd(transform, x)
        errors = torch.stack((log_det, log_det_back)) - by_autograd
        return Check(
            log_det=log_det[0].item(),
            by_autograd=by_autograd[0].item(),
            log_det_error=errors.abs().max().item(),
            round_trip_error=(x_back - x).abs().max().item(),
            integral=integral,
            tolerance=example.tolerance,
        )


def points() -> Tensor:
    """:data:`POINT` and 999 draws of the noise, shape ``(1_000, 2)``."""
    return torch.cat((torch.tensor([POINT]), torch.randn(999, 2, generator=torch.Generator().manual_seed(0))))


def log_det_by_autograd(transform: Transform, x: Tensor) -> Tensor:
    """log|det| of autograd's Jacobian, ``(n, 2) -> (n,)``."""
    # Each point's image depends on that point alone, so that the Jacobian of their sum holds every point's own.
    jacobian = torch.autograd.functional.jacobian(lambda x: transform.call_and_ladj(x)[0].sum(0), x)
    return torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet


def order_of_the_solver() -> list[str]:
    """How the error of the continuous transform's log-determinant falls with the number of steps, as printed."""
    lines = []
    with float64():
        x = points()
        for steps in (25, 50, 100):
            transform = continuous(steps)
            error = transform.call_and_ladj(x)[1] - log_det_by_autograd(transform, x)
            lines.append(f"{steps:3d} steps: largest difference {error.abs().max().item():.1e}")
    return lines


class float64:
    """Inside, torch makes tensors in double precision."""

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self.before)


def picture(example: Example, title: str) -> Figure:
    """
    The noise's density, the warped grid, the density and samples after the transform.

    :param example: the transform
    :param title: of the grid
    """
    transform = example.build()
    noise = Independent(Normal(torch.zeros(2), 1.0), 1)
    flow = NormalizingFlow(transform, like=torch.zeros(2))
    figure = Figure(figsize=(13.2, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    plot_density(noise, axes[0], -VIEW, VIEW)
    plot_transform(transform, axes[1], -GRID, GRID, lines=17)
    axes[1].set(xlim=(-VIEW, VIEW), ylim=(-VIEW, VIEW))
    plot_density(flow, axes[2], -VIEW, VIEW)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plot_samples(flow, axes[3], -VIEW, VIEW, bins=60, n_samples=50_000)
    figure.colorbar(share_colors(axes), ax=axes, label="density", shrink=0.85, pad=0.01)
    titles = ("noise: its density", f"{title}: the plane", "after it: the density", "after it: 50,000 samples")
    for panel, text in zip(axes, titles):
        panel.set_title(text, fontsize=10)
    return figure


def spline_curve() -> Figure:
    """The spline of one coordinate with its knots."""
    transform = spline()
    figure = Figure(figsize=(3.4, 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    x = torch.linspace(-4, 4, 400)
    axes.plot(x, transform(x[:, None].expand(-1, 2))[:, 0], color=LINE)
    assert isinstance(transform, RationalQuadraticSpline)
    axes.plot(*transform.knots[0, :2], "o", color=LINE, markersize=4)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.set_box_aspect(1)
    axes.grid(alpha=0.3)
    return figure
