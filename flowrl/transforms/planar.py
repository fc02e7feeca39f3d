"""The planar flow of Rezende and Mohamed 2015, with the inverse that the paper leaves out."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.transforms.transform import Transform

MIN_SLOPE = 1e-2  # smallest slope along w: bounds the stretch of the inverse, and so its error in float32
DISPLACEMENT_LIMIT = 1e4  # of |w| |u|: float32 rounds w.u by some |w| |u| eps, a tenth of MIN_SLOPE
NEWTON_STEPS = 12  # 8 reach float64's rounding error over all slopes from 0.01 to 1e4


class Planar(Transform):
    r"""Planar map, :math:`y = x + u \tanh(w^T x + b)` (eq. 10), invertible where :math:`\kappa = w^T u > -1`.

    :math:`|\det| = 1 + \kappa\, \mathrm{sech}^2(a)` at :math:`a = w^T x + b`. Its inverse solves the scalar equation
    :math:`a + \kappa \tanh a = w^T y + b`.

    :param w: direction, shape ``(*, d)``
    :param u: displacement with w.u > -1 (see :func:`planar_displacement`), shape ``(*, d)``
    :param b: offset, shape ``(*,)``
    """

    def __init__(self, w: Tensor, u: Tensor, b: Tensor):
        super().__init__()
        self.w, self.u, self.b = w, u, b

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tanh = torch.tanh((x * self.w).sum(-1) + self.b)
        return x + self.u * tanh.unsqueeze(-1), self._ladj(tanh)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        tanh = torch.tanh(solve_planar((y * self.w).sum(-1) + self.b, (self.w * self.u).sum(-1)))
        return y - self.u * tanh.unsqueeze(-1), self._ladj(tanh)

    def _ladj(self, tanh: Tensor) -> Tensor:
        # 1 + kappa sech^2 as a sum of non-negative terms: tanh^2 + (1 + kappa) sech^2
        square = tanh.square()
        return (square + (1 + (self.w * self.u).sum(-1)) * (1 - square)).log()


def planar_displacement(w: Tensor, raw_u: Tensor) -> Tensor:
    r"""u with :math:`w^T u > -1` from an unconstrained one (Rezende and Mohamed 2015, App. A.1).

    The paper's :math:`m(x) = -1 + \mathrm{softplus}(x)` is shifted so that m(0) = 0: a raw zero is the identity. Before
    that, :math:`|w| |u|` is bounded smoothly by `DISPLACEMENT_LIMIT`, lest rounding take w.u below -1; where it is one,
    float32 does not show it.

    :param w: shape ``(*, d)``
    :param raw_u: shape ``(*, d)``
    :return: u, shape ``(*, d)``
    """
    square = w.square().sum(-1, keepdim=True)
    raw_u = raw_u * torch.rsqrt(1 + square * (raw_u / DISPLACEMENT_LIMIT).square().sum(-1, keepdim=True))
    dot = (w * raw_u).sum(-1, keepdim=True)
    m = -1 + MIN_SLOPE + F.softplus(dot + math.log(math.expm1(1 - MIN_SLOPE)))
    # The tiny constant is for w = 0 and fades out the correction below |w| = 1e-9 (in float32), where it does not
    # matter: w.u is nearly zero with and without it.
    return raw_u + (m - dot) * w / (square + torch.finfo(w.dtype).tiny ** 0.5)


def solve_planar(c: Tensor, kappa: Tensor) -> Tensor:
    """The root a of a + kappa tanh(a) = c, with the first and second derivatives of the implicit function theorem.

    Newton's method kept inside a bracket by bisection, a fixed number of steps: no branch on a tensor's value.

    :param c: shape ``(*,)``
    :param kappa: above -1, broadcastable with c
    """
    with torch.no_grad():
        low, high = c - kappa.abs(), c + kappa.abs()  # a = c - kappa tanh(a) lies between them
        a = (c / (1 + kappa.clamp(min=0.0))).clamp(low, high)
        for _ in range(NEWTON_STEPS):
            tanh = torch.tanh(a)
            residual = a + kappa * tanh - c
            low = torch.where(residual < 0, a, low)
            high = torch.where(residual > 0, a, high)
            newton = a - residual / (1 + kappa * (1 - tanh.square()))
            a = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        slope = 1 + kappa * (1 - torch.tanh(a).square())
    # Newton's step with a constant slope, differentiated: the first makes da/dc = 1/slope and
    # da/dkappa = -tanh(a)/slope right, the second the second derivatives.
    for _ in range(2):
        a = a - (a + kappa * torch.tanh(a) - c) / slope
    return a
