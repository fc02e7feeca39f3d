"""Reorderings of the features: volume-preserving, so that the log-determinant is zero."""

import torch
from torch import Tensor

from flowrl.transforms.transform import Transform, zero_ladj


class Permutation(Transform):
    """Reordering :math:`y_i = x_{o_i}`.

    :param order: a permutation o of ``0 ... d - 1``, integer tensor of shape ``(d,)``
    """

    def __init__(self, order: Tensor):
        super().__init__()
        self.order = order

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(-1, self.order), zero_ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y.index_select(-1, torch.argsort(self.order)), zero_ladj(y)
