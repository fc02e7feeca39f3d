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

    :param center: x_0, shape ``(*, d)``
    :param alpha: positive, shape ``(*,)``
    :param gamma: alpha + beta, positive, shape ``(*,)``
    """

    def __init__(self, center: Tensor, alpha: Tensor, gamma: Tensor):
        super().__init__()
        self.center, self.alpha, self.gamma = center, alpha, gamma

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        offset = x - self.center
        r = torch.linalg.vector_norm(offset, dim=-1)
        stretch = (r + self.gamma) / (r + self.alpha)
        return self.center + stretch.unsqueeze(-1) * offset, self._ladj(r, x.shape[-1])

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        offset = y - self.center
        rho = torch.linalg.vector_norm(offset, dim=-1)
        # r (r + gamma) = rho (r + alpha): the positive root, in the form that does not cancel
        b = rho - self.gamma
        root = (b.square() + 4 * self.alpha * rho).sqrt()
        r = torch.where(b > 0, (b + root) / 2, 2 * self.alpha * rho / (root + b.abs()))
        shrink = (r + self.alpha) / (r + self.gamma)
        return self.center + shrink.unsqueeze(-1) * offset, self._ladj(r, y.shape[-1])

    def _ladj(self, r: Tensor, d: int) -> Tensor:
        outer = r + self.alpha
        along = (r.square() + 2 * self.alpha * r + self.alpha * self.gamma) / outer.square()
        return (d - 1) * ((r + self.gamma) / outer).log() + along.log()
