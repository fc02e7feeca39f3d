"""The C kernel of the tanh squash, as a torch function: value and log-determinant in one pass."""

from typing import Any

import torch
from torch import Tensor

from flowrl.kernels.library import kernels, supports


def _kernels(dtype: torch.dtype) -> tuple[Any, Any] | None:
    return kernels(dtype, "tanh", "nnppp", "nnppp")


def is_available(u: Tensor) -> bool:
    """Whether the kernel can serve: a batch of vectors, eager mode, on the CPU, with a compiler at hand."""
    return u.dim() == 2 and supports(u) and _kernels(u.dtype) is not None


def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
    """
    :param u: shape ``(batch, d)``
    :return: tanh u, shape ``(batch, d)``, and log|det|, shape ``(batch,)``
    """
    return _Tanh.apply(u) if u.requires_grad and torch.is_grad_enabled() else _forward(u)


def _forward(u: Tensor) -> tuple[Tensor, Tensor]:
    batch, features = u.shape
    u = u.t().contiguous()
    a = torch.empty_like(u)
    ladj = torch.zeros(batch, dtype=u.dtype, device="cpu")
    forward, _ = _kernels(u.dtype)  # type: ignore[misc]
    forward(batch, features, u.data_ptr(), a.data_ptr(), ladj.data_ptr())
    return a.t(), ladj


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
        a, ladj = _forward(u)
        ctx.save_for_backward(a)
        return a, ladj

    @staticmethod
    def backward(ctx: Any, to_a: Tensor, to_ladj: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not supports(
            to_a, to_ladj
        ):  # a is an output, so that a gradient of the gradient goes through it
            return to_a * (1 - a * a) - 2 * a * to_ladj.unsqueeze(-1)
        batch, features = a.shape
        rows, to_ladj = a.t().contiguous(), to_ladj.contiguous()
        to_u = to_a.t().clone(memory_format=torch.contiguous_format)
        _, backward = _kernels(a.dtype)  # type: ignore[misc]
        backward(batch, features, rows.data_ptr(), to_ladj.data_ptr(), to_u.data_ptr())
        return to_u.t()
