"""The C kernel of a whole flow, networks of its couplings included, as a torch function: one pass each way."""

import ctypes
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.kernels.library import fields, gradient_of_formula, kernels, pointers, supports

Formula = Callable[..., tuple[Tensor, Tensor]]


class StepKind(IntEnum):
    """The steps that flow.c knows."""

    SPLINE = 0
    SHEAR = 1
    GAUSSIAN = 2
    AFFINE_COUPLING = 3
    SPLINE_COUPLING = 4
    SQUASH = 5  # by tanh, from noise to x; where later, the density is that after it and x is that before it


class Step(NamedTuple):
    """One step of a flow.

    :param kind: which
    :param offset: its first column of the parameters
    :param option: a spline's number of bins; whether a shear is upper triangular, whether a squash is later
    :param bound: a spline acts on [-bound, bound]; an affine coupling's log-scale lies in (-bound, bound)
    :param keep: a coupling's features that condition
    :param change: and those that move
    :param widths: of a coupling's network's layers, two or more
    """

    kind: StepKind
    offset: int
    option: int = 0
    bound: float = 0.0
    keep: tuple[int, ...] = ()
    change: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()


class _Step(ctypes.Structure):
    _fields_ = fields("nnndnpnpnn", "kind offset option bound kept order depth widths weights outputs")


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
        rows = [sum(step.widths) for step in steps]
        self.outputs = sum(rows)  # of all layers of all networks
        weights = accumulate((max(2 * len(step.widths) - 1, 0) for step in steps), initial=0)
        self._integers: list[Any] = []  # keeps alive what the steps point to
        self.array = (_Step * len(steps))(
            *(
                _Step(
                    *step[:4],
                    *(len(step.keep), self._pointer(step.keep + step.change)),
                    *(len(step.widths), self._pointer(step.widths), first_weight, first_output),
                )
                for step, first_weight, first_output in zip(steps, weights, accumulate(rows, initial=0))
            )
        )
        self.head = (len(steps), ctypes.addressof(self.array), *limits)

    def _pointer(self, integers: tuple[int, ...]) -> int:
        self._integers.append((ctypes.c_int64 * len(integers))(*integers))
        return ctypes.addressof(self._integers[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.steps, self.limits)


class FlowJob(ctypes.Structure):
    """`Flow` of flow.c."""

    _fields_ = fields(
        "nnnnpdddippppippppppp",
        "n lanes features count steps limit low high inverse parameters weights states outputs density "
        "ladj to_ladj to_state scratch gradients to_parameters to_weights",
    )


def _kernels(dtype: torch.dtype) -> tuple[Any, Any] | None:
    return kernels(dtype, "flow", "np", "np")


def is_available(value: Tensor, parameters: Tensor, weights: Sequence[Tensor] = ()) -> bool:
    """Whether the kernel can serve: eager mode, on the CPU, in float32 or float64, with a compiler at hand."""
    return (
        supports(value, parameters, *weights)
        and all(weight.is_contiguous() for weight in weights)
        and serves(value.dtype, value.device)
    )


def serves(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there are kernels for a type of numbers on a device."""
    return device.type == "cpu" and _kernels(dtype) is not None


def evaluate(
    value: Tensor,
    parameters: Tensor,
    weights: Sequence[Tensor],
    program: Program,
    formula: Formula,
    inverse: bool,
    density: bool,
) -> tuple[Tensor, Tensor]:
    """
    The flow's image and log-determinant, or the log-density there.

    :param value: noise, or x where ``inverse``, shape ``(batch, d)``
    :param parameters: shape ``(batch, parameters)``; fastest where the batch is contiguous
    :param weights: of the couplings' networks, layer by layer: matrix and bias, but for the first layer's bias
    :param program: the steps
    :param formula: ``formula(value, parameters, *weights, inverse=inverse, density=density)``, in torch's operations,
        for second derivatives
    :param inverse: whether x is given and the noise sought
    :param density: whether the log-density of x is wanted, not the log-determinant
    :return: shapes ``(batch, d)`` and ``(batch,)``; the log-determinant is that of noise to x either way
    """
    inputs = (value, parameters, *weights)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Flow.apply(program, formula, inverse, density, *inputs)
    passed = forward(program, value, parameters.t().contiguous(), weights, inverse, density)
    return passed.states[-1].t(), passed.ladj


class Pass(NamedTuple):
    """What a forward pass leaves for the gradients.

    :param rows: the parameters, shape ``(parameters, batch)``
    :param weights: of the couplings' networks
    :param states: the input and every step's output, shape ``(steps + 1, d, batch)``
    :param outputs: of all layers of all networks, shape ``(outputs, batch)``
    :param ladj: the log-determinant or log-density, shape ``(batch,)``
    """

    rows: Tensor
    weights: Sequence[Tensor]
    states: Tensor
    outputs: Tensor
    ladj: Tensor


def forward(
    program: Program,
    value: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    inverse: bool = False,
    density: bool = False,
) -> Pass:
    """
    :param program: the steps
    :param value: noise, or x where ``inverse``, shape ``(batch, d)``
    :param rows: the parameters, shape ``(parameters, batch)``, contiguous
    :param weights: of the couplings' networks
    :param inverse: whether x is given
    :param density: whether log N(z; 0, I) - ladj, the log-density of x, shall stand in the log-determinant's place
    :return: the last of whose states is the image
    """
    batch, features = value.shape
    dtype = rows.dtype
    states = torch.empty((len(program.steps) + 1, features, batch), dtype=dtype, device="cpu")
    states[0].copy_(value.t())
    outputs = torch.empty((program.outputs, batch), dtype=dtype, device="cpu")
    passed = Pass(rows, weights, states, outputs, torch.empty(batch, dtype=dtype, device="cpu"))
    job, _kept = _job(program, passed, inverse)
    job.density, job.ladj = density, passed.ladj.data_ptr()
    _kernels(dtype)[0](torch.get_num_threads(), ctypes.addressof(job))  # type: ignore[index]
    return passed


def backward(
    program: Program,
    passed: Pass,
    to_image: Tensor | None,
    to_ladj: Tensor,
    to_weights: Sequence[Tensor],
    inverse: bool = False,
    density: bool = False,
) -> tuple[Tensor, Tensor]:
    """
    :param program: the steps
    :param passed: what :func:`forward` left
    :param to_image: the loss's gradient in the image, shape ``(batch, d)``; None for zero
    :param to_ladj: and in the log-determinant or log-density, shape ``(batch,)``
    :param to_weights: where those in the networks' weights shall be written
    :param inverse: as for :func:`forward`
    :param density: as for :func:`forward`
    :return: those in the value, shape ``(batch, d)``, and in the rows of parameters, ``(parameters, batch)``
    """
    features, batch = passed.states.shape[1:]
    dtype = passed.states.dtype
    to_value = torch.empty((features, batch), dtype=dtype, device="cpu")
    if to_image is None:
        to_value.zero_()
    else:
        to_value.copy_(to_image.t())
    to_rows = torch.empty_like(passed.rows)
    scratch, gradients = (
        torch.empty((max(features, 2), batch), dtype=dtype, device="cpu"),
        torch.empty_like(passed.outputs),
    )
    to_ladj = (-to_ladj if density else to_ladj).to(dtype).contiguous()
    job, _kept = _job(program, passed, inverse)
    job.density, job.to_ladj, job.to_state = density, to_ladj.data_ptr(), to_value.data_ptr()
    job.scratch, job.gradients = scratch.data_ptr(), gradients.data_ptr()
    to_weight_pointers = pointers(to_weights)
    job.to_parameters, job.to_weights = to_rows.data_ptr(), ctypes.addressof(to_weight_pointers)
    _kernels(dtype)[1](torch.get_num_threads(), ctypes.addressof(job))  # type: ignore[index]
    return to_value.t(), to_rows


def _job(program: Program, passed: Pass, inverse: bool) -> tuple[FlowJob, Any]:
    """What both kernels are called with; and what it points to and must stay alive."""
    _, features, batch = passed.states.shape
    weights = pointers(passed.weights)
    job = FlowJob(
        *(batch, batch, features, *program.head, inverse, passed.rows.data_ptr(), ctypes.addressof(weights)),
        *(passed.states.data_ptr(), passed.outputs.data_ptr()),
    )
    return job, weights


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        formula: Formula,
        inverse: bool,
        density: bool,
        value: Tensor,
        parameters: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        passed = forward(program, value, parameters.t().contiguous(), weights, inverse, density)
        ctx.program, ctx.formula = program, formula
        ctx.options = dict(inverse=inverse, density=density)
        ctx.set_materialize_grads(False)  # nobody asks for the image where only the density is wanted
        ctx.save_for_backward(passed.rows, passed.states, passed.outputs, value, parameters, *weights)
        return passed.states[-1].t(), passed.ladj

    @staticmethod
    def backward(ctx: Any, to_image: Tensor | None, to_ladj: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, states, outputs, value, parameters, *weights = ctx.saved_tensors
        to_ladj = value.new_zeros(len(value)) if to_ladj is None else to_ladj
        given = [tensor for tensor in (to_image, to_ladj) if tensor is not None]
        if torch.is_grad_enabled() or not supports(*given):
            formula = partial(ctx.formula, **ctx.options)
            to_image = torch.zeros_like(value) if to_image is None else to_image
            return *[None] * 4, *gradient_of_formula(formula, (value, parameters, *weights), (to_image, to_ladj))
        passed = Pass(rows, weights, states, outputs, to_ladj)
        to_weights = [torch.empty_like(weight) for weight in weights]
        to_value, to_rows = backward(ctx.program, passed, to_image, to_ladj, to_weights, **ctx.options)
        return *[None] * 4, to_value, to_rows.t(), *to_weights
