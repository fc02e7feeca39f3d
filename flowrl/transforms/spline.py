"""The monotonic rational-quadratic spline of Durkan et al. 2019, Neural Spline Flows, elementwise."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.transforms.bounded import bounded
from flowrl.transforms.transform import Transform

RAW_LIMIT = 3.0  # bins differ by at most e^6 in width and in height, slopes at knots lie within e^3 of 1


class RationalQuadraticSpline(Transform):
    r"""Elementwise monotonic spline on [-B, B], the identity outside (section 3.1, eq. 4 to 8).

    In bin k, with :math:`\xi = (x - x_k)/(x_{k+1} - x_k)`, mean slope :math:`s = h_k/w_k` and knot slopes
    :math:`\delta`,

    .. math:: y = y_k + h_k \frac{s \xi^2 + \delta_k \xi (1 - \xi)}{s + (\delta_{k+1} + \delta_k - 2 s) \xi (1 - \xi)}

    :param knots: stacked (x, y, slope) of the knots, shape ``(*, d, 3, K + 1)``; x and y increase from -B to B, slopes
        are positive and 1 at both ends
    :param bound: B
    """

    def __init__(self, knots: Tensor, bound: float):
        super().__init__()
        self.knots = knots
        self.bound = bound

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Clip before the spline: where() would let the unselected branch's infinities into the gradient.
        x_in = x.clamp(-self.bound, self.bound)
        x0, width, y0, height, d0, d1 = self._bin(x_in, axis=0)
        s = height / width
        xi = (x_in - x0) / width
        across = xi * (1 - xi)
        denominator = s + (d0 + d1 - 2 * s) * across
        y = y0 + height * (s * xi.square() + d0 * across) / denominator
        return self._with_tails(x, y, _slope(xi, across, s, d0, d1, denominator))

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y_in = y.clamp(-self.bound, self.bound)
        x0, width, y0, height, d0, d1 = self._bin(y_in, axis=1)
        s = height / width
        w = (y_in - y0) / height
        # The quadratic of eq. 6 to 8, solved as xi = 2 s w / (b + sqrt(discriminant)): the discriminant over h^2 is a
        # sum of non-negative terms and both it and the denominator stay positive.
        t = d0 * (1 - w) - d1 * w
        discriminant = t.square() + 4 * s.square() * w * (1 - w)
        xi = 2 * s * w / (t + 2 * s * w + discriminant.sqrt())
        across = xi * (1 - xi)
        denominator = s + (d0 + d1 - 2 * s) * across
        return self._with_tails(y, x0 + width * xi, _slope(xi, across, s, d0, d1, denominator))

    def _bin(self, value: Tensor, axis: int) -> tuple[Tensor, ...]:
        """(x_k, w_k, y_k, h_k, d_k, d_{k+1}) of the bin in which ``value`` lies on the x (0) or y (1) axis."""
        inner = self.knots[..., axis, 1:-1]  # (*, d, K - 1)
        k = (value.unsqueeze(-1) >= inner).sum(-1)  # (*, d), from 0 to K - 1
        index = torch.stack((k, k + 1), dim=-1).unsqueeze(-2)  # (*, d, 1, 2)
        ends = self.knots.expand(*value.shape, *self.knots.shape[-2:]).gather(-1, index.expand(*value.shape, 3, 2))
        (x0, y0, d0), (x1, y1, d1) = ends[..., 0].unbind(-1), ends[..., 1].unbind(-1)
        return x0, x1 - x0, y0, y1 - y0, d0, d1

    def _with_tails(self, value: Tensor, image: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        inside = value.abs() < self.bound
        return torch.where(inside, image, value), torch.where(inside, slope.log(), 0.0).sum(-1)


def spline_knots(raw: Tensor, bound: float) -> Tensor:
    """Constrained knots from raw network outputs; raw zeros give the identity.

    The raw numbers are bounded smoothly, which keeps the inverse well conditioned whatever the network says.

    :param raw: unconstrained widths (K), heights (K) and inner slopes (K - 1), shape ``(*, d, 3 K - 1)``
    :param bound: B, the spline acts on [-B, B]
    :return: knots, shape ``(*, d, 3, K + 1)``
    """
    bins = (raw.shape[-1] + 1) // 3
    positive = bounded(raw, RAW_LIMIT).exp()
    # A softmax by hand: nothing can overflow, and torch's is slow along so short a dimension.
    edges = positive[..., : 2 * bins].unflatten(-1, (2, bins)).cumsum(-1)  # (*, d, 2, K)
    inner = 2 * bound * edges[..., :-1] / edges[..., -1:] - bound
    positions = F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)  # (*, d, 2, K + 1)
    slopes = F.pad(positive[..., 2 * bins :], (1, 1), value=1.0).unsqueeze(-2)  # (*, d, 1, K + 1)
    return torch.cat((positions, slopes), dim=-2)


def _slope(xi: Tensor, across: Tensor, s: Tensor, d0: Tensor, d1: Tensor, denominator: Tensor) -> Tensor:
    """dy/dx inside a bin (eq. 5), with across = xi (1 - xi)."""
    numerator = d1 * xi.square() + 2 * s * across + d0 * (1 - xi).square()
    return numerator * (s / denominator).square()
