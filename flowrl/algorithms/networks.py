"""Stacks of equal networks (critics; an actor and a critic; one alone), each layer one kernel, with gradients by hand.

The networks' own parameters become views of the stack, so that everything else still sees and saves them as they were.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import Tensor, nn
from torch.nn import Parameter

from flowrl.algorithms.flat import FlatParameters

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


class PlainNetwork(NamedTuple):
    """What a `torch.nn.Sequential` of linear layers with one activation function between them is made of."""

    layers: list[nn.Linear]
    activation: type[nn.Module]
    active_end: bool  # whether the activation follows the last layer too

    @classmethod
    def read(cls, network: nn.Module) -> "PlainNetwork | None":
        """The parts of a network; None if it is anything else."""
        modules: list[Any] = list(network) if isinstance(network, nn.Sequential) else []
        layers, activations = modules[::2], modules[1::2]
        kinds = {type(module) for module in activations}
        if not activations or any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
            return None
        if len(kinds) != 1 or not kinds <= ACTIVATIONS.keys():
            return None
        return cls(layers, kinds.pop(), len(layers) == len(activations))


class NetworkStack:
    """
    Networks of equal shapes, run as one.

    :param networks: for each network its linear layers
    :param flat: where all of their parameters lie one after the other, in the order of :func:`stacked_order`
    :param product: batched matrix product
    :param activation: between the layers
    :param active_end: whether it follows the last layer too
    """

    def __init__(
        self,
        networks: Sequence[Sequence[nn.Linear]],
        flat: FlatParameters,
        product: Product,
        activation: type[nn.Module] = nn.ReLU,
        active_end: bool = False,
    ) -> None:
        self.product, self.activation, self.active_end = product, ACTIVATIONS[activation], active_end
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.weight_gradients: list[Tensor] = []
        self.bias_gradients: list[Tensor] = []
        count, offset = len(networks), flat.offset(networks[0][0].weight)
        for linear in networks[0]:
            for shape, values, gradients in (
                ((count, *linear.weight.shape), self.weights, self.weight_gradients),
                ((count, 1, *linear.bias.shape), self.biases, self.bias_gradients),
            ):
                size = torch.Size(shape).numel()
                values.append(flat.data[offset : offset + size].view(shape))
                gradients.append(flat.gradient[offset : offset + size].view(shape))
                offset += size

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """
        :param x: shape ``(batch, n)``, the same for every network, or ``(networks, batch, n)``
        :return: outputs, shape ``(networks, batch, m)``; and the inputs of all layers, for the gradients
        """
        inputs = self.hidden(x)
        output = self.product(inputs[-1], self.weights[-1].transpose(1, 2)).add_(self.biases[-1])
        return self.activation.apply(output) if self.active_end else output, inputs

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The inputs of all layers: all of `forward` but the last layer."""
        inputs = [x.expand(len(self.weights[0]), *x.shape[-2:])]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            inputs.append(self.activation.apply(self.product(inputs[-1], weight.transpose(1, 2)).add_(bias)))
        return inputs

    def gradients(self, to_output: Tensor, inputs: list[Tensor], output: Tensor | None = None) -> None:
        """Write the parameters' gradients.

        :param to_output: the loss's gradient in the outputs, ``(networks, batch, m)``; overwritten
        :param inputs: of all layers
        :param output: what `forward` returned; needed where the activation follows the last layer too
        """
        g = self.activation.back(to_output, output) if self.active_end else to_output  # type: ignore[arg-type]
        for i in reversed(range(len(self.weights))):
            self.product(g.transpose(1, 2), inputs[i], out=self.weight_gradients[i])
            torch.sum(g, 1, keepdim=True, out=self.bias_gradients[i])
            if i > 0:
                g = self.activation.back(self._back(g, i), inputs[i])

    def input_gradient(self, to_output: Tensor, inputs: list[Tensor]) -> Tensor:
        """
        :param to_output: the loss's gradient in the outputs, ``(networks, batch, m)``
        :param inputs: of all layers
        :return: the loss's gradient in each network's input, ``(networks, batch, n)``; no parameter gets any
        """
        g = to_output
        for i in reversed(range(len(self.weights))):
            g = self._back(g, i)
            if i > 0:
                g = self.activation.back(g, inputs[i])
        return g

    def _back(self, g: Tensor, i: int) -> Tensor:
        # A single output: an outer product, which a matrix product would be slow at
        return g * self.weights[i] if g.shape[-1] == 1 else self.product(g, self.weights[i])


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
