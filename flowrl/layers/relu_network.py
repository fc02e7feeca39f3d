"""A small ReLU network in one autograd node, its gradient by hand: half of the kernels and a tenth of the nodes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowrl.kernels.library import gradient_of_formula, is_traced


def relu_network(x: Tensor, context: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """
    W_n relu(... relu(W_1 x + context) ...) + b_n.

    :param x: shape ``(*batch, n)``
    :param context: what is added to the first layer, shape ``(*batch, width)``
    :param weights: of all layers
    :param biases: of all layers but the first
    :return: shape ``(*batch, m)``
    """
    inputs = (x, context, *weights, *biases)
    eager = torch.is_grad_enabled() and x.dim() == context.dim() == 2 and len(x) == len(context) and not is_traced()
    if eager and any(tensor.requires_grad for tensor in inputs):
        return _ReluNetwork.apply(len(weights), *inputs)
    return _formula(*inputs, layers=len(weights))[0]


def _formula(x: Tensor, context: Tensor, *parameters: Tensor, layers: int) -> tuple[Tensor]:
    h = torch.nn.functional.linear(x, parameters[0]) + context
    for weight, bias in zip(parameters[1:layers], parameters[layers:]):
        h = torch.nn.functional.linear(h.relu(), weight, bias)
    return (h,)


class _ReluNetwork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layers: int, x: Tensor, context: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[:layers], parameters[layers:]
        hidden, h = [], torch.addmm(context, x, weights[0].t())
        for weight, bias in zip(weights[1:], biases):
            hidden.append(h.clamp_(min=0))
            h = torch.addmm(bias, h, weight.t())
        ctx.layers = layers
        ctx.save_for_backward(x, context, *parameters, *hidden)
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        layers = ctx.layers
        x, context, *others = ctx.saved_tensors
        parameters, hidden = others[: 2 * layers - 1], others[2 * layers - 1 :]
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(g) or is_traced():
            formula: Any = partial(_formula, layers=layers)
            return None, *gradient_of_formula(formula, (x, context, *parameters), (g,))
        weights = parameters[:layers]
        to_weights, to_biases = [], []
        for weight, h in zip(reversed(weights[1:]), reversed(hidden)):
            to_weights.append(g.t() @ h)
            to_biases.append(g.sum(0))
            g = torch.ops.aten.threshold_backward(g @ weight, h, 0)
        to_weights.append(g.t() @ x)
        return None, g @ weights[0], g, *reversed(to_weights), *reversed(to_biases)
