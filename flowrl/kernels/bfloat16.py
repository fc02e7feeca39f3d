"""Whether the kernels may round what they multiply to bfloat16: see csrc/bfloat16.c."""

import torch

from flowrl.kernels.library import load


def torch_precision() -> str | None:
    """What `torch.set_float32_matmul_precision` set; None where `torch.backends.fp32_precision` rules."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def is_rounded(dtype: torch.dtype) -> bool:
    """
    Whether products round their factors: where ``torch.set_float32_matmul_precision("medium")`` allows it, and the
    processor is the faster for it.

    :param dtype: of the factors, for which there is a compiled library
    """
    if dtype != torch.float32 or torch_precision() != "medium":
        return False
    return bool(load(dtype).bfloat16_is_fast())  # type: ignore[union-attr]
