"""A flow in one call of the C kernel, as a transform and a distribution: layer by layer where that cannot serve."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.flows.distribution import NormalizingFlow, standard_normal_log_prob
from flowrl.flows.flow import Flow
from flowrl.flows.path import Segment
from flowrl.kernels import flow as kernel
from flowrl.kernels.library import load
from flowrl.kernels.program import LoweredFlow, Program, lowered, lowered_segments
from flowrl.kernels.torch_internals import is_batched, is_traced
from flowrl.transforms import Transform
from flowrl.transforms.transform import as_rows


def compiled_flow(flow: Flow, parameters: Tensor) -> CompiledFlow | None:
    """
    The distribution of a flow whose passes are the kernel's.

    :param flow: the flow
    :param parameters: the context map's output, shape ``(*batch, n)``
    :return: None where the kernel does not know the flow, or its device
    """
    if parameters.device.type != "cpu" or load(parameters.dtype) is None:
        return None
    found = lowered(flow)
    if found is None:
        return None
    return CompiledFlow(CompiledTransform(parameters, found, flow), parameters[..., : flow.features])


def compiled_segments(flow: Flow, segments: Sequence[Segment], parameters: Sequence[Tensor]) -> list[Transform] | None:
    """
    The transforms between a flow's noise layers, those in C that the kernel knows.

    :param flow: the flow with the noise
    :param segments: its layers, cut at the noise
    :param parameters: of each segment, shape ``(*batch, n)``
    :return: None where the kernel does not know their device, or a hook listens to a layer
    """
    if parameters[0].device.type != "cpu" or load(parameters[0].dtype) is None:
        return None
    found = lowered_segments(flow, segments)
    if found is None:
        return None
    return [
        segment.transform_of(part) if one.program is None else CompiledTransform(part, one, segment)
        for segment, part, one in zip(segments, parameters, found)
    ]


class CompiledTransform(Transform):
    """A flow made of steps that the C kernel knows: the kernel where it can serve, else layer by layer.

    :param parameters: the context map's output, shape ``(*batch, n)``
    :param lowered: the flow's program
    :param flow: the flow, or a segment of one, which builds the same transform layer by layer
    """

    def __init__(self, parameters: Tensor, lowered: LoweredFlow, flow: Flow | Segment):
        super().__init__()
        self.parameters, self.lowered, self.flow = parameters, lowered, flow

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(x, inverse=False)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(y, inverse=True)

    def evaluate(self, value: Tensor, inverse: bool, density: bool = False) -> tuple[Tensor, Tensor]:
        """
        :param value: noise, or x where ``inverse``, shape ``(*batch, d)``
        :param inverse: whether x is given and the noise sought
        :param density: whether the log-density of x is wanted, not the log-determinant
        :return: the image, shape ``(*batch, d)``, and what is wanted, ``(*batch,)``
        :raises ValueError: for values of another size than d, or parameters that are not this flow's
        """
        parameters, weights, shape = self.parameters, self.lowered.weights(), value.shape
        self.lowered.check(value, parameters)
        if not _serves(value, parameters, *weights):
            return _LayerByLayer(self.flow)(value, parameters, inverse, density)
        options: Any = (weights, self.lowered.program, self._with_weights, inverse, density)
        if value.dim() == 2 and parameters.shape[:-1] == shape[:-1]:
            return _evaluate(value, parameters, *options)
        batch, (value, parameters) = as_rows(value, parameters)  # several values a state, or a single state
        image, number = _evaluate(value, parameters, *options)
        return image.view(*batch, image.shape[-1]), number.view(batch)

    def _with_weights(
        self, value: Tensor, parameters: Tensor, *weights: Tensor, inverse: bool, density: bool
    ) -> tuple[Tensor, Tensor]:
        """The formula as a function of the weights too."""
        formula = _LayerByLayer(self.flow)
        names = {id(weight): name for name, weight in formula.named_parameters()}
        named = {names[id(own)]: weight for own, weight in zip(self.lowered.weights(), weights)}
        return torch.func.functional_call(formula, named, (value, parameters, inverse, density))


class CompiledFlow(NormalizingFlow):
    """The same distribution, whose log-density comes from the kernel too."""

    transform: CompiledTransform

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        return self.transform.evaluate(self._noise(sample_shape), inverse=False, density=True)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.transform.evaluate(self._expanded(value), inverse=True, density=True)[1]


class _LayerByLayer(nn.Module):
    """A flow's pass, each layer by itself."""

    def __init__(self, flow: Flow | Segment):
        super().__init__()
        self.layers, self.transform_of = flow.layers, flow.transform_of

    def forward(self, value: Tensor, parameters: Tensor, inverse: bool, density: bool) -> tuple[Tensor, Tensor]:
        transform = self.transform_of(parameters)
        image, ladj = transform.inverse_and_ladj(value) if inverse else transform.call_and_ladj(value)
        return image, standard_normal_log_prob(image if inverse else value) - ladj if density else ladj


def _serves(*tensors: Tensor) -> bool:
    """Whether the kernel can take these tensors: of one type, on the CPU, in eager mode."""
    return (
        not is_traced()  # first: the compiler does not look at the rest then
        and all(tensor.device.type == "cpu" and tensor.dtype == tensors[0].dtype for tensor in tensors)
        and not any(map(is_batched, tensors))
        and all(weight.is_contiguous() for weight in tensors[2:])
    )


def _evaluate(
    value: Tensor,
    parameters: Tensor,
    weights: list[Tensor],
    program: Program,
    formula: Any,
    inverse: bool,
    density: bool,
) -> tuple[Tensor, Tensor]:
    """:meth:`CompiledTransform.evaluate` of rows; ``formula`` says the same in torch, for second derivatives."""
    inputs = (value, parameters, *weights)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _FlowFunction.apply(program, formula, inverse, density, *inputs)
    saved = kernel.forward(program, value, parameters.t().contiguous(), weights, inverse, density)
    return _image(saved), saved.ladj


def _image(saved: kernel.Saved) -> Tensor:
    """The last state apart: whoever keeps it does not keep all the others."""
    return saved.states[-1].t().clone(memory_format=torch.contiguous_format)


class _FlowFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        formula: Any,
        inverse: bool,
        density: bool,
        value: Tensor,
        parameters: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        saved = kernel.forward(program, value, parameters.t().contiguous(), weights, inverse, density)
        ctx.program, ctx.formula = program, formula
        ctx.options = dict(inverse=inverse, density=density)
        ctx.set_materialize_grads(False)  # nobody asks for the image where only the density is wanted
        ctx.save_for_backward(saved.rows, saved.states, saved.outputs, value, parameters, *weights)
        return _image(saved), saved.ladj

    @staticmethod
    def backward(ctx: Any, to_image: Tensor | None, to_ladj: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, states, outputs, value, parameters, *weights = ctx.saved_tensors
        to_ladj = value.new_zeros(len(value)) if to_ladj is None else to_ladj
        given = [tensor for tensor in (to_image, to_ladj) if tensor is not None]
        if torch.is_grad_enabled() or not _serves(*given):
            formula = partial(ctx.formula, **ctx.options)
            to_image = torch.zeros_like(value) if to_image is None else to_image
            return *[None] * 4, *_gradient_of_formula(formula, (value, parameters, *weights), (to_image, to_ladj))
        saved = kernel.Saved(rows, weights, states, outputs, to_ladj)
        to_weights = [torch.empty_like(weight) for weight in weights]
        to_value, to_rows = kernel.backward(ctx.program, saved, to_image, to_ladj, to_weights, **ctx.options)
        return *[None] * 4, to_value, to_rows.t(), *to_weights


def _gradient_of_formula(
    formula: Any, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """The kernel's gradient by autograd: for second derivatives (TRPO's Hessian-vector products) and under vmap."""
    second = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: one input may depend on another (a value on the weights), which is not this gradient's business.
        aliases = [tensor.view_as(tensor) for tensor in inputs]
        outputs = formula(*aliases)
    wanted = [tensor for tensor in aliases if tensor.requires_grad]
    # A map whose stretch is the same everywhere has a log-determinant that depends on no value
    moved, given = zip(*((output, g) for output, g in zip(outputs, gradients) if output.requires_grad))
    found = iter(torch.autograd.grad(moved, wanted, given, create_graph=second))
    return tuple(next(found) if tensor.requires_grad else None for tensor in aliases)
