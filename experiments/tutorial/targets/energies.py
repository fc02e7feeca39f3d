r"""The energies U1 to U4 of Rezende and Mohamed 2015 (table 1), truncated to [-4, 4]^2 and normalised by quadrature.

U2 to U4 go on along z_1 for ever, so that exp(-U) has no integral without the truncation; U1 loses less than a
millionth by it. With

.. math::
    w_1 = \sin\tfrac{2 \pi z_1}{4}, \quad w_2 = 3 e^{-\frac12 ((z_1 - 1) / 0.6)^2}, \quad
    w_3 = 3\, \mathrm{sigmoid}\big((z_1 - 1) / 0.3\big).
"""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from experiments.tutorial.targets.target import Target, midpoints

BOUND = 4.0  # half the side of the square
POINTS = 1_000  # along each side, of the quadrature
HIGHEST = 2.0  # no exp(-U) is higher: two bumps of height 1 at most


class Energy(Target):
    """
    The density exp(-U(x)) / Z on the square, 0 outside.

    :param energy: U, ``(*, 2) -> (*,)``
    """

    def __init__(self, energy: Callable[[Tensor], Tensor]):
        super().__init__(reach=BOUND)
        self.energy = energy

    @cached_property
    def log_normalizer(self) -> float:
        """log Z by the midpoint rule in float64."""
        x, cell = midpoints(BOUND, POINTS)
        return (-self.energy(x)).logsumexp(0).item() + math.log(cell)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = (x.abs() <= BOUND).all(-1)
        return torch.where(inside, -self.energy(x) - self.log_normalizer, -math.inf)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """By rejection from the uniform density on the square."""
        accepted: list[Tensor] = []
        while sum(map(len, accepted)) < n:
            x = BOUND * (2 * torch.rand(4 * n, 2, generator=generator) - 1)
            height = HIGHEST * torch.rand(4 * n, generator=generator)
            accepted.append(x[height < torch.exp(-self.energy(x))])
        return torch.cat(accepted)[:n]


def u1(z: Tensor) -> Tensor:
    """A ring of radius 2 with two bumps, left and right."""
    ring = ((torch.linalg.vector_norm(z, dim=-1) - 2) / 0.4).square() / 2
    return ring + _two_bumps((z[..., 0] - 2) / 0.6, (z[..., 0] + 2) / 0.6)


def u2(z: Tensor) -> Tensor:
    """A band along a sine."""
    return ((z[..., 1] - _w1(z)) / 0.4).square() / 2


def u3(z: Tensor) -> Tensor:
    """A band that splits and joins again."""
    off = z[..., 1] - _w1(z)
    return _two_bumps(off / 0.35, (off + 3 * torch.exp(-((z[..., 0] - 1) / 0.6).square() / 2)) / 0.35)


def u4(z: Tensor) -> Tensor:
    """A band that splits in two."""
    off = z[..., 1] - _w1(z)
    return _two_bumps(off / 0.4, (off + 3 * torch.sigmoid((z[..., 0] - 1) / 0.3)) / 0.35)


def _w1(z: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * z[..., 0] / 4)


def _two_bumps(a: Tensor, b: Tensor) -> Tensor:
    """-log(exp(-a^2 / 2) + exp(-b^2 / 2))."""
    return -torch.logaddexp(-a.square() / 2, -b.square() / 2)
