"""Torch's private names that the kernels need, each seen in torch 2.13: who looks on at an operation, and how."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook


def is_traced() -> bool:
    """Whether something looks on that cannot see into a call of C: vmap, jit, a compiler, fake tensors."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()  # vmap, torch.func
        or torch._C._len_torch_dispatch_stack() > 0  # fake tensors, make_fx
        or forward_ad._current_level >= 0
    )


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for a batch of them: gradients under ``is_grads_batched``."""
    return torch._C._functorch.is_legacy_batchedtensor(tensor)


def has_global_hooks() -> bool:
    """Whether a hook listens to every module."""
    return _has_any_global_hook()
