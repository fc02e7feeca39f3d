r"""Points and curves blurred by isotropic Gaussian noise: eight Gaussians, two moons, two spirals, rings.

Their density is :math:`p(x) = \int N(x; c, \sigma^2 I)\, dP(c)`: a sum over points, a quadrature along a curve, and
on a circle a Bessel function.
"""

import math

import numpy as np
import torch
from torch import Tensor

from experiments.tutorial.targets.target import Target

POINTS_AT_ONCE = 512  # points whose terms of the sum stand in memory together


class BlurredPoints(Target):
    """
    A mixture of equal round Gaussians.

    :param centers: c, shape ``(k, 2)``
    :param weights: P(c), shape ``(k,)``, sum 1
    :param noise: sigma
    :param reach: see :class:`Target`
    """

    def __init__(self, centers: Tensor, weights: Tensor, noise: float, reach: float):
        super().__init__(reach)
        self.centers, self.weights, self.noise = centers, weights, noise

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        centers = self.sample_centers(n, generator)
        return centers + self.noise * torch.randn(n, 2, generator=generator)

    def sample_centers(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Draws of c, shape ``(n, 2)``."""
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.centers[index].to(torch.get_default_dtype())

    def log_prob(self, x: Tensor) -> Tensor:
        # -|x - c|^2 / 2 as x.c - |c|^2 / 2 - |x|^2 / 2, one matrix product; in float64, where its terms do not cancel.
        centers, scaled = self.centers / self.noise, x.double() / self.noise
        of_center = self.weights.log() - centers.square().sum(-1) / 2
        log_sum = torch.cat([(part @ centers.T + of_center).logsumexp(-1) for part in scaled.split(POINTS_AT_ONCE)])
        return (log_sum - scaled.square().sum(-1) / 2 - math.log(2 * math.pi * self.noise**2)).to(x.dtype)


class BlurredCurves(BlurredPoints):
    """
    Curves c_i(t), one chosen at random with t in (0, 1) of density ``power * t^(power - 1)``; Gauss-Legendre in t.

    :param noise: sigma
    :param reach: see :class:`Target`
    :param power: 1: t is uniform; 2: the square root of a uniform number
    :param nodes: of the quadrature, so many that neighbours on a curve are closer than sigma
    """

    def __init__(self, noise: float, reach: float, power: int, nodes: int):
        self.power = power
        t, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(nodes))
        t, weights = (t + 1) / 2, weights / 2
        curves = self.curves(t)  # (curves, nodes, 2)
        weights = weights * power * t ** (power - 1) / len(curves)
        super().__init__(curves.flatten(0, 1), weights.repeat(len(curves)), noise, reach)

    def curves(self, t: Tensor) -> Tensor:
        """The curves' points at t, ``(n,) -> (curves, n, 2)``."""
        raise NotImplementedError

    def sample_centers(self, n: int, generator: torch.Generator | None) -> Tensor:
        curves = self.curves(torch.rand(n, generator=generator) ** (1 / self.power))
        return curves[torch.randint(len(curves), (n,), generator=generator), torch.arange(n)]


class EightGaussians(BlurredPoints):
    """Eight Gaussians on a circle, neighbours 6.1 standard deviations apart."""

    def __init__(self) -> None:
        angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
        centers = math.sqrt(8) * torch.stack((angles.cos(), angles.sin()), -1)
        super().__init__(centers, torch.full((8,), 1 / 8, dtype=torch.float64), noise=math.sqrt(1 / 8), reach=5.0)


class TwoMoons(BlurredCurves):
    """Two interleaved half circles of radius 2, noise 0.2: scikit-learn's ``make_moons(noise=0.1)``, twice as large."""

    def __init__(self, nodes: int = 128) -> None:
        super().__init__(noise=0.2, reach=5.0, power=1, nodes=nodes)

    def curves(self, t: Tensor) -> Tensor:
        x, y = 2 * torch.cos(math.pi * t), 2 * torch.sin(math.pi * t)
        return torch.stack((torch.stack((x - 1, y - 0.5), -1), torch.stack((1 - x, 0.5 - y), -1)))


class TwoSpirals(BlurredCurves):
    """Two spirals of one and a half turns, radius proportional to the angle, noise 0.1."""

    def __init__(self, nodes: int = 384) -> None:
        super().__init__(noise=0.1, reach=4.0, power=2, nodes=nodes)

    def curves(self, t: Tensor) -> Tensor:
        angle = 3 * math.pi * t
        arm = math.pi * t[:, None] * torch.stack((-angle.cos(), angle.sin()), -1)
        return torch.stack((arm, -arm))


class Rings(Target):
    r"""Four concentric circles of equal mass, noise 0.08.

    A circle of radius r blurred by :math:`\sigma` has, at distance :math:`\rho` from the origin, the density
    :math:`\exp(-(\rho - r)^2 / 2 \sigma^2)\, e^{-k} I_0(k) / 2 \pi \sigma^2` with :math:`k = \rho r / \sigma^2`.
    """

    radii = (0.75, 1.5, 2.25, 3.0)
    noise = 0.08

    def __init__(self) -> None:
        super().__init__(reach=4.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        radius = torch.tensor(self.radii)[torch.randint(len(self.radii), (n,), generator=generator)]
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        circle = radius[:, None] * torch.stack((angle.cos(), angle.sin()), -1)
        return circle + self.noise * torch.randn(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        radius = torch.tensor(self.radii, dtype=x.dtype, device=x.device)
        distance = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        bessel = torch.special.i0e(distance * radius / self.noise**2)
        exponent = -0.5 * ((distance - radius) / self.noise).square() + bessel.log()
        return exponent.logsumexp(-1) - math.log(len(self.radii) * 2 * math.pi * self.noise**2)
