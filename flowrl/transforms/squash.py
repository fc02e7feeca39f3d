"""The tanh squash from R^d onto a box, stable where tanh rounds to one."""

import math
from numbers import Real

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from flowrl.transforms.transform import Transform


class TanhBox(Transform):
    r"""Squash onto the open box (low, high): :math:`y = m + h \tanh x`, midpoint m and half-width h.

    :math:`\log|\det| = \sum_i 2 (\log 2 - x_i - \mathrm{softplus}(-2 x_i)) + \log h_i`, finite for every finite x. The
    inverse of a value that rounds to the box's edge is that of the nearest float inside.

    :param low: lower edge, number or shape ``(*, d)`` (of torch or numpy)
    :param high: upper edge, number or shape ``(*, d)``
    :raises ValueError: unless low < high, where both are numbers
    """

    def __init__(self, low: ArrayLike | Tensor = -1.0, high: ArrayLike | Tensor = 1.0):
        super().__init__()
        low, high = _edge(low), _edge(high)
        if not isinstance(low < high, Tensor) and not low < high:  # of tensors a GPU would have to be waited for
            raise ValueError(f"A box needs low < high, got low={low} and high={high}.")
        self.low, self.high = low, high
        self._unit = isinstance(low, float) and isinstance(high, float) and low == -1.0 and high == 1.0

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.interval(self.low, self.high), 1)  # where the edges are now

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._scale(torch.tanh(x)), self._ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        limit = 1 - torch.finfo(y.dtype).eps / 2
        x = torch.atanh(self._unscale(y).clamp(-limit, limit))
        return x, self._ladj(x)

    def _scale(self, t: Tensor) -> Tensor:
        if self._unit:
            return t
        y = self.low + (self.high - self.low) * (t + 1) / 2
        return torch.minimum(y, torch.as_tensor(self.high, dtype=y.dtype, device=y.device))  # rounding may go beyond

    def _unscale(self, y: Tensor) -> Tensor:
        return y if self._unit else 2 * (y - self.low) / (self.high - self.low) - 1

    def _ladj(self, x: Tensor) -> Tensor:
        ladj = 2 * (math.log(2) - x - F.softplus(-2 * x))
        if not self._unit:
            ladj = ladj + torch.log(torch.as_tensor(self.high - self.low, dtype=x.dtype, device=x.device) / 2)
        return ladj.sum(-1)


def _edge(edge: ArrayLike | Tensor) -> float | Tensor:
    """A number or tensor as it is, an array in torch's default precision."""
    if isinstance(edge, Tensor):
        return edge
    return float(edge) if isinstance(edge, Real) else torch.as_tensor(edge, dtype=torch.get_default_dtype())
