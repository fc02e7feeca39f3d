"""The sigmoidal map of Huang et al. 2018, Neural Autoregressive Flows, elementwise, with its inverse."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.transforms.transform import Transform

BISECTIONS = 14  # until Newton's method converges; for log-weights that lie hundreds apart, not always
NEWTON_STEPS = 3  # with the two differentiated steps, to float64's rounding error


class Sigmoidal(Transform):
    r"""Elementwise increasing map, :math:`y = \mathrm{logit} \sum_k w_k\, \sigma(a_k x + b_k)` (eq. 8 and 9).

    y lies between the smallest and the largest of the lines :math:`a_k x + b_k`: so the map is onto R, and so is its
    inverse bracketed. Where :math:`|b_k| \le B` its slope lies between :math:`\min_k a_k\, \sigma(-B)` and
    :math:`\max_k a_k`. The inverse has the first and second derivatives of the implicit function theorem.

    :param log_slope: log a, shape ``(*, d, K)``
    :param offset: b, shape ``(*, d, K)``
    :param log_weight: log w, with :math:`\sum_k w_k = 1`, shape ``(*, d, K)``
    """

    def __init__(self, log_slope: Tensor, offset: Tensor, log_weight: Tensor):
        super().__init__()
        self.slope, self.offset, self.log_weight = log_slope.exp(), offset, log_weight

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, slope = self._value_and_slope(x)
        return y, slope.log().sum(-1)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            x = self._root(y)
            slope = self._value_and_slope(x)[1]
        # Newton's step with a constant slope, differentiated: the first makes dx/dy = 1/slope (and dx/dtheta) right,
        # the second the second derivatives.
        for _ in range(2):
            x = x - (self._value_and_slope(x)[0] - y) / slope
        return x, self.call_and_ladj(x)[1]

    def _value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""y and dy/dx, from log S and log(1 - S) of the mixture S: neither saturates, in no tail and no precision.

        The slope :math:`S'/(S (1 - S))` as a sum of positive terms: :math:`\sum_k a_k (r_k (1 - \sigma_k) + \bar r_k
        \sigma_k)`, with r and r-bar the units' shares of S and of 1 - S.
        """
        z = self.slope * x.unsqueeze(-1) + self.offset
        log_sigma, log_rest = F.logsigmoid(z), F.logsigmoid(-z)
        lower, upper = self.log_weight + log_sigma, self.log_weight + log_rest
        share = lower.softmax(-1) * log_rest.exp() + upper.softmax(-1) * log_sigma.exp()
        return lower.logsumexp(-1) - upper.logsumexp(-1), (self.slope * share).sum(-1)

    def _root(self, y: Tensor) -> Tensor:
        """x by bisection, then by Newton's method kept inside the bracket: a fixed number of steps."""
        lines = (y.unsqueeze(-1) - self.offset) / self.slope
        low, high = lines.amin(-1), lines.amax(-1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = self._value_and_slope(middle)[0] > y
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        x = (low + high) / 2
        for _ in range(NEWTON_STEPS):
            value, slope = self._value_and_slope(x)
            x = (x - (value - y) / slope).clamp(low, high)
        return x
