"""The radial flow of Rezende and Mohamed 2015, with its inverse in closed form."""

import torch
from torch import Tensor

from flowrl.transforms.transform import Transform


class Radial(Transform):
    r"""Radial map, :math:`y = x + \frac{\beta}{\alpha + r} (x - x_0)`, :math:`r = |x - x_0|` (eq. 14).

    Invertible where :math:`\beta > -\alpha`, so that it is given :math:`\gamma = \alpha + \beta > 0`:
    :math:`y - x_0 = \frac{r + \gamma}{r + \alpha} (x - x_0)` and

    .. math::
        |\det| = \Big(\frac{r + \gamma}{r + \alpha}\Big)^{d - 1}
        \frac{r^2 + 2 \alpha r + \alpha \gamma}{(r + \alpha)^2}.

    Nothing is squared that may be large, so that the map is finite far away, in float32 as well.

    :param center: x_0, shape ``(*, d)``
    :param alpha: positive, shape ``(*,)``
    :param gamma: alpha + beta, positive, shape ``(*,)``
    """

    def __init__(self, center: Tensor, alpha: Tensor, gamma: Tensor):
        super().__init__()
        self.center, self.alpha, self.gamma = center, alpha, gamma

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        offset = x - self.center
        r = norm(offset)
        stretch = (r + self.gamma) / (r + self.alpha)
        return self.center + stretch.unsqueeze(-1) * offset, self._ladj(r, x.shape[-1])

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        offset = y - self.center
        r = self._radius(norm(offset))
        shrink = (r + self.alpha) / (r + self.gamma)
        return self.center + shrink.unsqueeze(-1) * offset, self._ladj(r, y.shape[-1])

    def _radius(self, rho: Tensor) -> Tensor:
        """|x - x_0| from |y - x_0|: the positive root of r (r + gamma) = rho (r + alpha), in the form that does not
        cancel. The equation is homogeneous, so that it is solved in units of its largest number."""
        unit = torch.maximum(rho, torch.maximum(self.alpha, self.gamma)).detach()
        rho, alpha, gamma = rho / unit, self.alpha / unit, self.gamma / unit
        b = rho - gamma
        root = (b.square() + 4 * alpha * rho).sqrt()
        return unit * torch.where(b > 0, (b + root) / 2, 2 * alpha * rho / (root + b.abs()))

    def _ladj(self, r: Tensor, d: int) -> Tensor:
        # With p = r / (r + alpha), q = alpha / (r + alpha), c = gamma / (r + alpha) and p + q = 1, the stretch is p + c
        # and the last factor p^2 + 2 p q + q c = p (1 + q) + q c.
        outer = r + self.alpha
        p, q, c = r / outer, self.alpha / outer, self.gamma / outer
        return (d - 1) * (p + c).log() + (p * (1 + q) + q * c).log()


def norm(vector: Tensor) -> Tensor:
    """Its length, ``(*, d) -> (*,)``, in units of its largest element where that is above one: no square overflows."""
    unit = vector.detach().abs().amax(-1, keepdim=True).clamp(min=1.0)
    return unit.squeeze(-1) * torch.linalg.vector_norm(vector / unit, dim=-1)
