"""The smooth bound on raw parameters: log-scales are never clipped, so that their gradients never stop."""

import torch
from torch import Tensor


def bounded(raw: Tensor, limit: float) -> Tensor:
    """limit * tanh(raw / limit): slope 1 at zero, inside (-limit, limit)."""
    return limit * torch.tanh(raw / limit)
