"""A distribution that knows no context, moved and scaled as the context says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowrl.adapters.distribution import ExternalDistribution
from flowrl.flows.distribution import ReparameterizedDistribution
from flowrl.layers import AffineBijector
from flowrl.transforms import Transform


def context_affine(module: nn.Module, features: int, context: int) -> nn.Module:
    return ContextAffine(module, features, context) if context else module


class ContextAffine(nn.Module):
    """
    A distribution that knows no context, moved and scaled as the context says.

    :param module: ``module()`` is the distribution over vectors of size d
    :param features: d
    :param context: dimension of the context
    """

    def __init__(self, module: nn.Module, features: int, context: int):
        super().__init__()
        self.module, self.features = module, features
        self.bijector = AffineBijector()
        self.head = nn.Linear(context, features * self.bijector.parameters_per_feature)

    def forward(self, context: Tensor) -> ReparameterizedDistribution:
        distribution = self.module()
        if not isinstance(distribution, ReparameterizedDistribution):
            distribution = ExternalDistribution(distribution, self.features)
        transform = self.bijector(self.head(context).unflatten(-1, (self.features, -1)))
        return ContextAffineDistribution(distribution, transform, context.shape[:-1])


class ContextAffineDistribution(ReparameterizedDistribution):
    """
    One distribution, through a batch of transforms.

    :param distribution: of batch shape ``()``
    :param transform: with parameters of shape ``(*batch, d)``
    :param batch_shape: their batch shape
    """

    def __init__(self, distribution: ReparameterizedDistribution, transform: Transform, batch_shape: torch.Size):
        super().__init__(batch_shape, distribution.event_shape[0])
        self.distribution, self.transform = distribution, transform

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        y, log_prob = self.distribution.rsample_and_log_prob((*sample_shape, *self.batch_shape))
        x, ladj = self.transform.call_and_ladj(y)
        return x, log_prob - ladj

    def log_prob(self, value: Tensor) -> Tensor:
        y, ladj = self.transform.inverse_and_ladj(value)
        return self.distribution.log_prob(y) - ladj

    def center(self) -> Tensor:
        return self.transform.call_and_ladj(self.distribution.center().expand(*self.batch_shape, -1))[0]
