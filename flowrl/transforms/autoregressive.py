"""Autoregressive maps: feature i moves as the features before it say (Kingma et al. 2016; Papamakarios et al. 2017)."""

from collections.abc import Callable

import torch
from torch import Tensor

from flowrl.transforms.transform import Transform, zero_ladj


class Autoregressive(Transform):
    r"""Autoregressive map :math:`y_i = g(x_i; \theta(x_{<i}))`: one network pass forward, d passes back.

    Forward it is IAF, whose samples are fast; its inverse (`Inverse(Autoregressive(...))`) is MAF, whose log-prob is.

    :param conditioner: x, shape ``(*, d)`` -> elementwise transform g, whose i-th part depends on x_{<i} alone; given
        ``feature=i`` as well, that part by itself
    """

    def __init__(self, conditioner: Callable[..., Transform]):
        super().__init__()
        self.conditioner = conditioner

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conditioner(x).call_and_ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, total = torch.zeros_like(y), zero_ladj(y)
        features = torch.arange(y.shape[-1], device=y.device)
        for i in range(y.shape[-1]):
            x_i, ladj = self.conditioner(x, feature=i).inverse_and_ladj(y[..., i : i + 1])
            x, total = torch.where(features == i, x_i, x), total + ladj
        return x, total
