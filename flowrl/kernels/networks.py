"""Stacks of equal networks (critics; an actor and a critic; one alone), in few kernels, with gradients by hand.

The networks' own parameters become views of the stack, so that everything else still sees and saves them as they were.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import Tensor, nn
from torch.nn import Parameter

from flowrl.kernels import stack
from flowrl.kernels.flat import FlatParameters
from flowrl.kernels.plain_network import PlainNetwork

Product = Callable[..., Tensor]


def float32(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """A batched matrix product in the operands' own precision."""
    return torch.bmm(a, b, out=out)


def bfloat16(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """A batched matrix product of operands rounded to bfloat16, whose result is rounded too."""
    product = torch.bmm(a.bfloat16(), b.bfloat16())
    return product.to(a.dtype) if out is None else out.copy_(product)


def emulated_bfloat16(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """The same for processors without bfloat16 instructions, slow at it: rounded numbers, float32 products."""
    product = torch.bmm(a.bfloat16().to(a.dtype), b.bfloat16().to(b.dtype), out=out)
    return product.copy_(product.bfloat16())


def product_for(precision: str, device: torch.device) -> Product:
    """
    The matrix product of a precision.

    :param precision: ``"float32"`` or ``"bf16"``
    :param device: where it shall run
    :raises ValueError: for any other precision
    """
    if precision not in ("float32", "bf16"):
        raise ValueError(f"precision must be 'float32' or 'bf16', got {precision!r}.")
    if precision == "float32":
        return float32
    native = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bfloat16 if native else emulated_bfloat16


STATELESS_EXTRACTORS: set[type[nn.Module]] = {FlattenExtractor, CombinedExtractor}
"""Features extractors that may be run once where SB3 runs several of them; add one of your own that holds no state."""


def is_stateless(extractor: nn.Module) -> bool:
    """Whether a features extractor has neither parameters (a CombinedExtractor has, for images) nor any other state."""
    return type(extractor) in STATELESS_EXTRACTORS and not any(True for _ in extractor.parameters())


class Activation(NamedTuple):
    """An activation function in place, and the gradient before it, in place of that after it, from its output."""

    apply: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]


_aten = torch.ops.aten
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(
        lambda h: h.clamp_(min=0), lambda g, h: _aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
    ),
    nn.Tanh: Activation(lambda h: h.tanh_(), lambda g, h: _aten.tanh_backward.grad_input(g, h, grad_input=g)),
}


class NetworkStack(Protocol):
    """Networks of equal shapes, run as one: see :func:`network_stack`."""

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """
        :param x: shape ``(batch, n)``, the same for every network, or ``(networks, batch, n)``
        :return: outputs, shape ``(networks, batch, m)``; and what the gradients need. The next batch of the same size
            may overwrite both.
        """

    def gradients(self, to_output: Tensor, passed: Any) -> None:
        """Write the parameters' gradients.

        :param to_output: the loss's gradient in the outputs, ``(networks, batch, m)``, or in those of the first of the
            batch, if it does not depend on the others
        :param passed: what `forward` left
        """

    def input_gradient(self, to_output: Tensor, passed: Any) -> Tensor:
        """
        :param to_output: as for :meth:`gradients`
        :param passed: what `forward` left
        :return: the loss's gradient in each network's input, ``(networks, batch, n)``; no parameter gets any
        """


def network_stack(
    networks: Sequence[Sequence[nn.Linear]],
    flat: FlatParameters,
    product: Product,
    activation: type[nn.Module] = nn.ReLU,
    active_end: bool = False,
) -> NetworkStack:
    """
    Networks of equal shapes, run as one; in C where it can be.

    :param networks: for each network its linear layers
    :param flat: where all of their parameters lie one after the other, in the order of :func:`stacked_order`
    :param product: batched matrix product
    :param activation: between the layers
    :param active_end: whether it follows the last layer too
    :return: the stack
    """
    start, layers = flat.offset(networks[0][0].weight), networks[0]
    widths = (layers[0].in_features, *(linear.out_features for linear in layers))
    size = len(networks) * sum(m * n + n for m, n in pairwise(widths))
    values, gradients = (
        _by_layer(whole[start : start + size], len(networks), widths) for whole in (flat.data, flat.gradient)
    )
    if product is float32 and stack.is_available(flat.data):
        return stack.Stack(values, activation is nn.Tanh, active_end, gradients)
    return TorchStack(values, gradients, product, ACTIVATIONS[activation], active_end)


@dataclass
class TorchStack:
    """A stack in torch's operations: on a GPU, in bfloat16, without a compiler."""

    weights: list[Tensor]  # of each layer the matrices, then the biases
    weight_gradients: list[Tensor]
    product: Product
    activation: Activation
    active_end: bool

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        layers = [x.expand(len(self.weights[0]), *x.shape[-2:])]  # the inputs of all, and the last one's output
        for i, (matrix, bias) in enumerate(zip(self.weights[::2], self.weights[1::2])):
            output = self.product(layers[-1], matrix.transpose(1, 2)).add_(bias.unsqueeze(1))
            active = i < self._depth - 1 or self.active_end
            layers.append(self.activation.apply(output) if active else output)
        return layers[-1], layers

    def gradients(self, to_output: Tensor, layers: list[Tensor]) -> None:
        batch, g = to_output.shape[1], self._at_end(to_output, layers)
        for i in reversed(range(self._depth)):
            x = layers[i][:, :batch]
            self.product(g.transpose(1, 2), x, out=self.weight_gradients[2 * i])
            torch.sum(g, 1, out=self.weight_gradients[2 * i + 1])
            if i > 0:
                g = self.activation.back(self._back(g, i), x)

    def input_gradient(self, to_output: Tensor, layers: list[Tensor]) -> Tensor:
        batch, g = to_output.shape[1], self._at_end(to_output, layers)
        for i in reversed(range(self._depth)):
            g = self._back(g, i)
            if i > 0:
                g = self.activation.back(g, layers[i][:, :batch])
        return g

    @property
    def _depth(self) -> int:
        return len(self.weights) // 2

    def _at_end(self, to_output: Tensor, layers: list[Tensor]) -> Tensor:
        if not self.active_end:
            return to_output
        return self.activation.back(to_output.clone(), layers[-1][:, : to_output.shape[1]])

    def _back(self, g: Tensor, i: int) -> Tensor:
        # A single output: an outer product, which a matrix product would be slow at
        matrix = self.weights[2 * i]
        return g * matrix if g.shape[-1] == 1 else self.product(g, matrix)


def _by_layer(whole: Tensor, networks: int, widths: Sequence[int]) -> list[Tensor]:
    """For each layer its matrices, shape ``(networks, out, in)``, and its biases, ``(networks, out)``, of what lies end
    to end."""
    shapes = [shape for n, m in pairwise(widths) for shape in ((networks, m, n), (networks, m))]
    parts = whole.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def stacked_order(networks: Sequence[Sequence[nn.Linear]]) -> list[Parameter]:
    """The order in which a stack's parameters lie: all first weights, all first biases, all second weights, ..."""
    order: list[Parameter] = []
    for layer in zip(*networks, strict=True):
        order += [linear.weight for linear in layer] + [linear.bias for linear in layer]
    return order


def equal_shapes(networks: Sequence[PlainNetwork]) -> bool:
    """Whether networks can be stacked."""
    kinds = {
        (tuple(layer.weight.shape for layer in network.layers), network.activation, network.active_end)
        for network in networks
    }
    return len(kinds) == 1
