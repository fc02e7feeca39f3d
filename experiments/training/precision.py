"""How exactly matrices of float32 are multiplied in a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRECISIONS = ("highest", "high", "medium")
"""Torch's: float32; TensorFloat32 on GPUs that have it; bfloat16 where that is faster."""


@contextmanager
def matmul_precision(config: dict[str, Any]) -> Iterator[None]:
    """
    Multiply as a run does, and afterwards as before.

    :param config: the run's; those of earlier versions say nothing, and were of the highest
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(config.get("matmul_precision", PRECISIONS[0]))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
