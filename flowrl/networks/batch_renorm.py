"""Batch renormalisation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

EPSILON = 1e-5
MOMENTUM = 0.01
WARM_UP = 100_000
MAX_RATIO, MAX_SHIFT = 3.0, 5.0


class BatchRenorm(nn.Module):
    r"""
    Batch renormalisation (Ioffe 2017, eq. 2 to 4): in training the batch's moments, corrected towards the running ones,

    .. math:: \hat x = \frac{x - \mu_B}{\sigma_B} r + d, \qquad
              r = \mathrm{clip}(\sigma_B / \sigma, 1/3, 3), \quad d = \mathrm{clip}((\mu_B - \mu) / \sigma, -5, 5)

    r and d without a gradient; in evaluation the running moments. The correction, the momentum and the 100,000 updates
    before the correction sets in are CrossQ's (Bhatt et al. 2024).

    :param width: features
    """

    mean: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, width) -> (batch, width)``"""
        if not self.training or not len(x):  # no moments are those of an empty batch
            return (x - self.mean) * ((self.variance + EPSILON).rsqrt() * self.scale) + self.shift
        variance, mean = torch.var_mean(x, 0, correction=0)
        with torch.no_grad():
            warm = self.updates >= WARM_UP
            deviation, running = (variance + EPSILON).sqrt(), (self.variance + EPSILON).sqrt()
            ratio = torch.where(warm, (deviation / running).clamp(1 / MAX_RATIO, MAX_RATIO), 1.0)
            shift = torch.where(warm, ((mean - self.mean) / running).clamp(-MAX_SHIFT, MAX_SHIFT), 0.0)
            finite = mean.isfinite() & variance.isfinite()  # or they would never be again
            self.mean.lerp_(mean.where(finite, self.mean), MOMENTUM)
            self.variance.lerp_(variance.where(finite, self.variance), MOMENTUM)
            self.updates += 1
        x = (x - mean) * (variance + EPSILON).rsqrt()
        return (x * ratio + shift) * self.scale + self.shift


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """
    Evaluate what is normalised by the batch by its running moments, as where no batch is to move them.

    :param network: any
    """
    moving = [module for module in network.modules() if isinstance(module, BatchRenorm) and module.training]
    for module in moving:
        module.eval()
    try:
        yield
    finally:
        for module in moving:
            module.train()
