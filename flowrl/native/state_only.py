"""The C kernel of flows whose parameters all come from the state, as a torch function: one pass each way."""

import ctypes
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.native.library import gradient_of_formula, kernels, supports

Formula = Callable[..., tuple[Tensor, Tensor]]


class StepKind(IntEnum):
    """The steps that state_only.c knows."""

    SPLINE = 0
    SHEAR = 1
    GAUSSIAN = 2


class Step(NamedTuple):
    """One step of a flow.

    :param kind: which
    :param offset: its first column of the parameters
    :param option: a spline's number of bins; whether a shear is upper triangular
    :param bound: a spline acts on [-bound, bound]
    """

    kind: StepKind
    offset: int
    option: int = 0
    bound: float = 0.0


class _Step(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int64), ("offset", ctypes.c_int64), ("option", ctypes.c_int64)] + [
        ("bound", ctypes.c_double)
    ]


class Limits(NamedTuple):
    """The smooth bounds on raw parameters: of a spline's to (-spline, spline), of log-stds about [low, high]."""

    spline: float
    low: float
    high: float


class Program:
    """Steps in the form that the kernel reads.

    :param steps: first to last
    :param limits: see :class:`Limits`
    """

    def __init__(self, steps: Sequence[Step], limits: Limits):
        self.steps, self.limits = tuple(steps), limits
        self.array = (_Step * len(steps))(*(_Step(*step) for step in steps))
        self.head = (len(steps), ctypes.addressof(self.array), *limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.steps, self.limits)


_HEAD = "nnnpdddi" + "ppp"  # sizes, steps and options; parameters, states, ladj or its gradient


def _kernels(dtype: torch.dtype) -> tuple[Any, Any] | None:
    return kernels(dtype, "flow", _HEAD, _HEAD + "ppp")


def is_available(value: Tensor, parameters: Tensor) -> bool:
    """Whether the kernel can serve: eager mode, on the CPU, in float32 or float64, with a compiler at hand."""
    return supports(value, parameters) and _kernels(value.dtype) is not None


def evaluate(
    value: Tensor, parameters: Tensor, program: Program, inverse: bool, formula: Formula
) -> tuple[Tensor, Tensor]:
    """
    The flow's image and log-determinant.

    :param value: noise, or x where ``inverse``, shape ``(batch, d)``
    :param parameters: shape ``(batch, parameters)``; fastest where the batch is contiguous
    :param program: the steps
    :param inverse: whether x is given and the noise sought
    :param formula: ``formula(value, parameters, inverse)``, the same in torch's operations, for second derivatives
    :return: shapes ``(batch, d)`` and ``(batch,)``; the log-determinant is that of noise to x either way
    """
    if torch.is_grad_enabled() and (value.requires_grad or parameters.requires_grad):
        return _Flow.apply(value, parameters, program, inverse, formula)
    states, ladj = _forward(value, parameters.t().contiguous(), program, inverse)
    return states[-1].t(), ladj


def _forward(value: Tensor, rows: Tensor, program: Program, inverse: bool) -> tuple[Tensor, Tensor]:
    batch, features = value.shape
    states = torch.empty((len(program.steps) + 1, features, batch), dtype=value.dtype)
    states[0].copy_(value.t())
    ladj = torch.zeros(batch, dtype=value.dtype)
    forward, _ = _kernels(value.dtype)  # type: ignore[misc]
    forward(batch, features, *program.head, inverse, rows.data_ptr(), states.data_ptr(), ladj.data_ptr())
    return states, ladj


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, parameters: Tensor, program: Program, inverse: bool, formula: Formula
    ) -> tuple[Tensor, Tensor]:
        rows = parameters.t().contiguous()
        states, ladj = _forward(value, rows, program, inverse)
        ctx.program, ctx.inverse, ctx.formula = program, inverse, formula
        ctx.save_for_backward(value, parameters, rows, states)
        return states[-1].t(), ladj

    @staticmethod
    def backward(ctx: Any, to_image: Tensor, to_ladj: Tensor) -> tuple[Tensor | None, ...]:
        value, parameters, rows, states = ctx.saved_tensors
        if torch.is_grad_enabled() or not supports(to_image, to_ladj):
            formula = partial(ctx.formula, inverse=ctx.inverse)
            return *gradient_of_formula(formula, (value, parameters), (to_image, to_ladj)), *[None] * 3
        batch, features = value.shape
        to_value = to_image.t().clone(memory_format=torch.contiguous_format)
        to_rows = torch.empty_like(rows)
        scratch = torch.empty((max(features, 2), batch), dtype=value.dtype)
        to_ladj = to_ladj.contiguous()
        _, backward = _kernels(value.dtype)  # type: ignore[misc]
        backward(
            *(batch, features, *ctx.program.head, ctx.inverse, rows.data_ptr(), states.data_ptr()),
            *(to_ladj.data_ptr(), to_value.data_ptr(), scratch.data_ptr(), to_rows.data_ptr()),
        )
        return to_value.t(), to_rows.t(), *[None] * 3
