"""Numbers that depend on a seed alone: not on torch's own generator, and not on the device that they come to lie on."""

import torch
from torch import Tensor


def seeded_order(features: int, seed: int) -> Tensor:
    """A permutation of ``0 ... features - 1``, shape ``(features,)``, on the default device."""
    order = torch.randperm(features, generator=torch.Generator().manual_seed(seed), device="cpu")
    return order.to(torch.get_default_device())


def seeded_normal(*size: int, seed: int) -> Tensor:
    """Draws from N(0, 1), of that size, on the default device."""
    draws = torch.randn(size, generator=torch.Generator().manual_seed(seed), device="cpu")
    return draws.to(torch.get_default_device())
