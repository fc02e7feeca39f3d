"""How exactly matrices of float32 are multiplied in a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("highest", "high", "medium")
"""Torch's: float32, its default; TensorFloat32 on GPUs that have it; bfloat16 where that is faster."""


@contextmanager
def matmul_precision(precision: str | None) -> Iterator[None]:
    """
    Multiply so for a time, and afterwards as before.

    :param precision: one of :data:`PRECISIONS`; None: as torch does by itself
    """
    if precision is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
