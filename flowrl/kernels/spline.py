"""The spline's C kernel as a torch function: value and log-determinant forward, their gradient backward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowrl.kernels.library import gradient_of_formula, kernels, supports

Formula = Callable[..., tuple[Tensor, Tensor]]

MAX_BINS = 64  # as in spline.c

_HEAD = "nniddi" + "pnnn" + "pnn"  # sizes and options, the raw parameters, the value


def _kernels(dtype: torch.dtype) -> tuple[Any, Any] | None:
    return kernels(dtype, "spline", _HEAD + "pnp", _HEAD + "pnn" + "pn" + "pnpnnn")


def is_available(value: Tensor, raw: Tensor) -> bool:
    """Whether the kernel can serve: eager mode, on the CPU, in float32 or float64, with a compiler at hand."""
    return raw.shape[-1] < 3 * MAX_BINS and supports(value, raw) and _kernels(value.dtype) is not None


def evaluate(
    value: Tensor, raw: Tensor, bound: float, limit: float, inverse: bool, formula: Formula
) -> tuple[Tensor, Tensor]:
    """
    The spline's image and log-determinant.

    :param value: x, or y where ``inverse``, shape ``(*, d)``
    :param raw: unconstrained parameters, shape ``(*, d, 3 K - 1)``, of the same batch shape
    :param bound: the spline acts on [-bound, bound]
    :param limit: the raw parameters are bounded smoothly to (-limit, limit)
    :param inverse: whether y is given and x sought
    :param formula: ``formula(value, raw, bound, inverse)`` in torch's operations, for second derivatives
    :return: shapes ``(*, d)`` and ``(*,)``
    """
    if value.dim() == 2:
        return _evaluate(value, raw, bound, limit, inverse, formula)
    wide, flat = raw.reshape(-1, *raw.shape[-2:]), value.reshape(-1, value.shape[-1])
    image, ladj = _evaluate(flat, wide, bound, limit, inverse, formula)
    return image.view(value.shape), ladj.view(value.shape[:-1])


def _evaluate(
    value: Tensor, raw: Tensor, bound: float, limit: float, inverse: bool, formula: Formula
) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and (value.requires_grad or raw.requires_grad):
        return _Spline.apply(value, raw, bound, limit, inverse, formula)
    return _forward(value, raw, bound, limit, inverse)


def _forward(value: Tensor, raw: Tensor, bound: float, limit: float, inverse: bool) -> tuple[Tensor, Tensor]:
    forward, _ = _kernels(value.dtype)  # type: ignore[misc]
    batch, features = value.shape
    image = torch.empty((features, batch), dtype=value.dtype, device="cpu")
    ladj = torch.zeros(batch, dtype=value.dtype, device="cpu")
    forward(
        *_arguments(value, raw, bound, limit, inverse),
        *(image.data_ptr(), batch, ladj.data_ptr()),
    )
    return image.t(), ladj


def _arguments(value: Tensor, raw: Tensor, bound: float, limit: float, inverse: bool) -> tuple[Any, ...]:
    """The arguments that both kernels begin with; strides in the order parameter, feature, batch."""
    batch, features, parameters = raw.shape
    (value_b, value_f), (raw_b, raw_f, raw_p) = value.stride(), raw.stride()
    head = (batch, features, (parameters + 1) // 3, bound, limit, inverse)
    return *head, raw.data_ptr(), raw_p, raw_f, raw_b, value.data_ptr(), value_f, value_b


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, raw: Tensor, bound: float, limit: float, inverse: bool, formula: Formula
    ) -> tuple[Tensor, Tensor]:
        ctx.options, ctx.formula = (bound, limit, inverse), formula
        ctx.save_for_backward(value, raw)
        return _forward(value, raw, bound, limit, inverse)

    @staticmethod
    def backward(ctx: Any, to_image: Tensor, to_ladj: Tensor) -> tuple[Tensor | None, ...]:
        value, raw = ctx.saved_tensors
        bound, limit, inverse = ctx.options
        if torch.is_grad_enabled() or not supports(to_image, to_ladj):
            formula = partial(ctx.formula, bound=bound, inverse=inverse)
            return *gradient_of_formula(formula, (value, raw), (to_image, to_ladj)), *[None] * 4
        _, backward = _kernels(value.dtype)  # type: ignore[misc]
        batch, features = value.shape
        to_value = torch.empty((features, batch), dtype=value.dtype, device="cpu")
        to_raw = torch.empty_like(raw)
        (image_b, image_f), (to_raw_b, to_raw_f, to_raw_p) = to_image.stride(), to_raw.stride()
        backward(
            *_arguments(value, raw, bound, limit, inverse),
            *(to_image.data_ptr(), image_f, image_b, to_ladj.data_ptr(), to_ladj.stride(0)),
            *(to_value.data_ptr(), batch, to_raw.data_ptr(), to_raw_p, to_raw_f, to_raw_b),
        )
        return to_value.t(), to_raw, *[None] * 4
