"""`NormalizingFlow`: standard normal noise pushed through a transform, a distribution."""

import math

import torch
from torch import Tensor

from flowrl.reparameterized import ReparameterizedDistribution
from flowrl.transforms import Transform


class NormalizingFlow(ReparameterizedDistribution):
    """Standard normal noise pushed through a transform: log p(x) = log N(z; 0, I) - ladj(z) with x = T(z).

    :param transform: T, noise to value
    :param like: any tensor of shape ``(*batch, d)`` with the dtype and device of the samples
    """

    def __init__(self, transform: Transform, like: Tensor):
        super().__init__(like.shape[:-1], like.shape[-1])
        self.transform = transform
        self._like = like

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        z = self._noise(sample_shape)
        x, ladj = self.transform.call_and_ladj(z)
        return x, standard_normal_log_prob(z) - ladj

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.transform.call_and_ladj(self._noise(sample_shape))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        z, ladj = self.transform.inverse_and_ladj(self._expanded(value))
        return standard_normal_log_prob(z) - ladj

    def center(self) -> Tensor:
        return self.transform.call_and_ladj(torch.zeros_like(self._like))[0]

    def _expanded(self, value: Tensor) -> Tensor:
        if value.shape == self._like.shape:
            return value
        return value.expand(torch.broadcast_shapes(value.shape, self._like.shape))

    def _noise(self, sample_shape: tuple[int, ...]) -> Tensor:
        return torch.randn((*sample_shape, *self._like.shape), dtype=self._like.dtype, device=self._like.device)

    def log_det(self, value: Tensor) -> Tensor:
        """log|det dx/dz| at a value, shape ``(*batch,)``: how far the flow stretches the noise there."""
        return self.transform.inverse_and_ladj(value)[1]


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), ``(*batch, d) -> (*batch,)``."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))
