"""The pinwheel: five Gaussian blades, twisted more the farther out."""

import math

import torch
from torch import Tensor

from experiments.tutorial.targets.target import Target

BLADES = 5
CENTER, SPREAD = 2.0, (0.6, 0.2)  # of a blade before the twist: its distance from the origin, along and across


class Pinwheel(Target):
    r"""Blades :math:`N((2, 0), \mathrm{diag}(0.6, 0.2)^2)`, turned by multiples of 72 degrees and then twisted.

    The twist turns the point x by the angle :math:`\frac14 e^{|x| / 2}`. A turn by an angle that depends on the radius
    alone has the turn back as its inverse and log-determinant 0, so that p(x) is the blades' density at x turned back.
    """

    def __init__(self) -> None:
        super().__init__(reach=6.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        blade = torch.randint(BLADES, (n,), generator=generator)
        x = torch.tensor([CENTER, 0.0]) + torch.tensor(SPREAD) * torch.randn(n, 2, generator=generator)
        return turn(x, 2 * math.pi * blade / BLADES + twist(x))

    def log_prob(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * torch.arange(BLADES, dtype=x.dtype, device=x.device) / BLADES
        along, across = turn(x.unsqueeze(-2), -angles - twist(x).unsqueeze(-1)).unbind(-1)  # (*, BLADES)
        exponent = -0.5 * (((along - CENTER) / SPREAD[0]).square() + (across / SPREAD[1]).square())
        return exponent.logsumexp(-1) - math.log(BLADES * 2 * math.pi * SPREAD[0] * SPREAD[1])


def twist(x: Tensor) -> Tensor:
    """The angle by which the twist turns a point, ``(*, 2) -> (*,)``."""
    return 0.25 * torch.exp(torch.linalg.vector_norm(x, dim=-1) / 2)


def turn(x: Tensor, angle: Tensor) -> Tensor:
    """Points turned counter-clockwise around the origin, ``(*, 2), (*,) -> (*, 2)``."""
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack((cosine * x[..., 0] - sine * x[..., 1], sine * x[..., 0] + cosine * x[..., 1]), -1)
