r"""The distribution of a return as a flow: a monotone spline from tau, uniform on [0, 1], to the return in [-B, B].

The spline *is* the quantile function, :math:`z = Z(\tau)`, and what a flow gives is all there, exactly:

.. math:: F(z) = Z^{-1}(z), \qquad p(z) = 1 / Z'(\tau), \qquad E[g(z)] = \int_0^1 g(Z(\tau)) d\tau

Quantiles cannot cross, since the spline is monotone (Durkan et al. 2019), and nothing lies beyond [-B, B]: a linear
tail would let one wild target move the mean.
"""

import math

import torch
from torch import Tensor

from flowrl.transforms.spline import evaluate_in_bin, spline_knots

RAW_LIMIT = 5.0
"""Of raw numbers. A return that is certain has its probability in one bin: of 64, 0.997 at this limit, but 0.86 at that
of other splines (3). What is left is spread over the interval, and draws every mean towards zero, and again every mean
that is bootstrapped from it. Beyond 5 the shortest bins vanish in float32."""


def midpoints(n: int, like: Tensor) -> Tensor:
    """(i + 1/2) / n, i from 0 to n - 1."""
    return (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n


class ReturnFlow:
    """
    Of returns, each on its own.

    :param raw: unconstrained widths (K), heights (K) and inner slopes (K - 1) of the spline, shape
        ``(*batch, 3 K - 1)``; zeros are the uniform distribution
    :param bound: B
    """

    def __init__(self, raw: Tensor, bound: float):
        self._knots = spline_knots(raw, bound, RAW_LIMIT)  # (*batch, 3, K + 1), both axes from -B to B
        self.bound = bound

    def quantile(self, tau: Tensor) -> Tensor:
        """
        :param tau: in [0, 1], shape ``(n,)`` or ``(*batch, n)``
        :return: Z(tau), shape ``(*batch, n)``
        """
        return self._spline((2 * tau - 1) * self.bound, inverse=False)[0]

    def cdf(self, z: Tensor) -> Tensor:
        """
        :param z: returns, shape ``(n,)`` or ``(*batch, n)``; beyond [-B, B] it is 0 or 1
        :return: F(z), shape ``(*batch, n)``
        """
        return (self._spline(z.clamp(-self.bound, self.bound), inverse=True)[0] / self.bound + 1) / 2

    def log_prob(self, z: Tensor) -> Tensor:
        """
        :param z: returns, shape ``(n,)`` or ``(*batch, n)``
        :return: log p(z), shape ``(*batch, n)``; -inf beyond [-B, B]
        """
        ladj = self._spline(z.clamp(-self.bound, self.bound), inverse=True)[1]
        return (-ladj - math.log(2 * self.bound)).masked_fill(z.abs() > self.bound, -torch.inf)

    def mean(self, n: int = 256) -> Tensor:
        """
        :param n: nodes of the midpoint rule in tau
        :return: shape ``(*batch,)``
        """
        return self.quantile(midpoints(n, self._knots)).mean(-1)

    def _spline(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Image and log-slope, n of each distribution's one spline, shape ``(*batch, n)``."""
        value = value.expand(*self._knots.shape[:-2], value.shape[-1])
        edges = self._knots[..., int(inverse), 1:-1]
        k = torch.searchsorted(edges.detach().contiguous(), value.detach().contiguous(), right=True)  # (*batch, n)
        k = k.unsqueeze(-2).expand(*value.shape[:-1], 3, -1)
        start, end = self._knots.gather(-1, k), self._knots.gather(-1, k + 1)
        return evaluate_in_bin(value, start.unbind(-2), end.unbind(-2), inverse)
