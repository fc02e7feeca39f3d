"""How exactly matrices of float32 are multiplied in a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("highest", "high", "medium")
"""Torch's: float32; TensorFloat32 on GPUs that have it; bfloat16 where that is faster. The first is its default."""


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """
    Multiply so for a time, and afterwards as before.

    :param precision: one of :data:`PRECISIONS`
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
