"""How exactly matrices of float32 are multiplied in a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def matmul_precision(precision: str | None) -> Iterator[None]:
    """
    Multiply so for a time, and afterwards as before.

    :param precision: torch's ``"highest"`` (float32), ``"high"`` (TensorFloat32 on GPUs that have it) or ``"medium"``
        (bfloat16 where that is faster); None: as torch does by itself
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
