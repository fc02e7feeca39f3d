"""Coupling: some features pass unchanged and say how the others move (Dinh et al. 2017, RealNVP)."""

from collections.abc import Callable

from torch import Tensor

from flowrl.transforms.transform import Transform, concatenate


class Coupling(Transform):
    r"""Coupling map: :math:`y_A = x_A`, :math:`y_B = g(x_B; \theta(x_A))`, one network pass in each direction.

    :param conditioner: x_A, shape ``(*, |A|)`` -> elementwise transform g of the features in B
    :param keep: indices A, integer tensor
    :param change: indices B, integer tensor
    :param back: where each feature stands in (A, B), ``torch.argsort(torch.cat((keep, change)))``
    """

    def __init__(self, conditioner: Callable[[Tensor], Transform], keep: Tensor, change: Tensor, back: Tensor):
        super().__init__()
        self.conditioner, self.keep, self.change, self.back = conditioner, keep, change, back

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x.index_select(-1, self.keep)
        changed, ladj = self.conditioner(kept).call_and_ladj(x.index_select(-1, self.change))
        return self._join(kept, changed), ladj

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        kept = y.index_select(-1, self.keep)
        changed, ladj = self.conditioner(kept).inverse_and_ladj(y.index_select(-1, self.change))
        return self._join(kept, changed), ladj

    def _join(self, kept: Tensor, changed: Tensor) -> Tensor:
        return concatenate(kept, changed).index_select(-1, self.back)
