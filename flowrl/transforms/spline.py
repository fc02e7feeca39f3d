"""The monotonic rational-quadratic spline of Durkan et al. 2019, Neural Spline Flows, elementwise."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.transforms.transform import Transform

RAW_LIMIT = 3.0  # bins differ by at most e^6 in width and in height, slopes at knots lie within e^3 of 1


class RationalQuadraticSpline(Transform):
    r"""Elementwise monotonic spline on [-B, B], the identity outside (section 3.1, eq. 4 to 8).

    In bin k, with :math:`\xi = (x - x_k)/(x_{k+1} - x_k)`, mean slope :math:`s = h_k/w_k` and knot slopes
    :math:`\delta`,

    .. math:: y = y_k + h_k \frac{s \xi^2 + \delta_k \xi (1 - \xi)}{s + (\delta_{k+1} + \delta_k - 2 s) \xi (1 - \xi)}

    :param raw: unconstrained widths (K), heights (K) and inner slopes (K - 1), shape ``(*, d, 3 K - 1)``; zeros are the
        identity
    :param bound: B
    """

    def __init__(self, raw: Tensor, bound: float):
        super().__init__()
        self.raw = raw
        self.bound = bound

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._evaluate(x, inverse=False)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._evaluate(y, inverse=True)

    @property
    def knots(self) -> Tensor:
        """See :func:`spline_knots`."""
        return spline_knots(self.raw, self.bound)

    def _evaluate(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        raw = self.raw
        if value.shape != raw.shape[:-1]:
            value, _ = torch.broadcast_tensors(value, raw[..., 0])
            raw = raw.expand(*value.shape, -1)
        return evaluate(value, raw, self.bound, inverse)


def spline_knots(raw: Tensor, bound: float, limit: float = RAW_LIMIT) -> Tensor:
    """Constrained knots from raw network outputs; raw zeros give the identity.

    The raw numbers are bounded smoothly: no bin and no slope vanishes, whatever the network says. (Beyond 5e19 in
    float32, where its square is infinite, a raw number counts as zero.) Where bins differ much, slopes may still be
    small, e^-8 with random raw numbers of size 1 and e^-14 of size 3, and there the inverse in float32 is off, by up to
    4e-4 and 0.1.

    :param raw: see :class:`RationalQuadraticSpline`
    :param bound: B, the spline acts on [-B, B]
    :param limit: of the raw numbers' size
    :return: stacked (x, y, slope) of the knots, shape ``(*, d, 3, K + 1)``; x and y increase from -B to B, slopes are
        positive and 1 at both ends
    """
    bins = (raw.shape[-1] + 1) // 3
    # raw / sqrt(1 + (raw / limit)^2): slope 1 at zero, inside (-limit, limit), and a third of a tanh's cost.
    positive = (raw * torch.rsqrt(1 + (raw / limit).square())).exp()
    # A softmax by hand: nothing can overflow, and torch's is slow along so short a dimension.
    edges = positive[..., : 2 * bins].unflatten(-1, (2, bins)).cumsum(-1)  # (*, d, 2, K)
    inner = edges[..., :-1] * (2 * bound / edges[..., -1:]) - bound
    positions = F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)  # (*, d, 2, K + 1)
    slopes = F.pad(positive[..., 2 * bins :], (1, 1), value=1.0).unsqueeze(-2)  # (*, d, 1, K + 1)
    return torch.cat((positions, slopes), dim=-2)


def evaluate(value: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """
    The spline's image and log-determinant.

    :param value: x, or y where ``inverse``, shape ``(*, d)``
    :param raw: see :class:`RationalQuadraticSpline`
    :param bound: B
    :param inverse: whether y is given and x sought
    :return: y, or x where ``inverse``, shape ``(*, d)``; log|det dy/dx| at that point either way, shape ``(*,)``
    """
    knots = spline_knots(raw, bound)
    # Clip before the spline: where() would let the unselected branch's infinities into the gradient.
    clipped = value.clamp(-bound, bound)
    k = (clipped.unsqueeze(-1) >= knots[..., int(inverse), 1:-1]).sum(-1)  # (*, d), from 0 to K - 1
    index = torch.stack((k, k + 1), dim=-1).unsqueeze(-2)  # (*, d, 1, 2)
    ends = knots.gather(-1, index.expand(*value.shape, 3, 2))
    image, log_slope = evaluate_in_bin(clipped, ends[..., 0].unbind(-1), ends[..., 1].unbind(-1), inverse)
    inside = value.abs() < bound
    log_slope = torch.where(inside, log_slope, 0.0)
    return torch.where(inside, image, value), log_slope.sum(-1)


def evaluate_in_bin(
    value: Tensor, start: Sequence[Tensor], end: Sequence[Tensor], inverse: bool
) -> tuple[Tensor, Tensor]:
    r"""
    Eq. 4 to 8, in the bins in which the values lie.

    With w = (y - y_k) / h, eq. 4 is the quadratic a xi^2 + b xi + c = 0 of eq. 6 to 8, here divided by h:

    .. math::
        a = s - \delta_k + w (\delta_{k+1} + \delta_k - 2 s), \quad
        b = \delta_k - w (\delta_{k+1} + \delta_k - 2 s), \quad c = -s w,

    whose root in [0, 1] is :math:`\xi = -2 c / (b + \sqrt{b^2 - 4 a c})`. With :math:`t = \delta_k - w (\delta_{k+1} +
    \delta_k)`, b is t + 2 s w, a is s - b, and the discriminant a sum of non-negative terms,

    .. math:: b^2 - 4 a c = (t + 2 s w)^2 + 4 s w (s - t - 2 s w) = t^2 + 4 s^2 w (1 - w).

    The denominator is positive: where b is negative, a is positive and the root of the discriminant above |b|.

    :param value: x, or y where ``inverse``
    :param start: x, y and slope of each bin's first knot, each of the values' shape
    :param end: of its last
    :param inverse: whether y is given and x sought
    :return: y, or x where ``inverse``, and log dy/dx, of the values' shape
    """
    (x0, y0, d0), (x1, y1, d1) = start, end
    width, height = x1 - x0, y1 - y0
    s = height / width
    if inverse:
        w = (value - y0) / height
        t = d0 - (d0 + d1) * w
        twice_sw = 2 * s * w
        xi = twice_sw / (t + twice_sw + (t.square() + 2 * s * twice_sw * (1 - w)).sqrt())
    else:
        xi = (value - x0) / width
    rest = 1 - xi
    rise = s * xi + d0 * rest
    denominator = s + (d0 + d1 - 2 * s) * (xi * rest)
    image = x0 + width * xi if inverse else y0 + height * (xi * rise / denominator)
    numerator = xi * (d1 * xi + s * rest) + rest * rise  # eq. 5: dy/dx = numerator (s / denominator)^2
    return image, (numerator * (s / denominator).square()).log()
