"""Couplings over the channels of a grid, through a small convolutional network: WaveGlow's in time, Glow's in space."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowrl.layers.bijectors import Bijector
from flowrl.layers.coupling import halves
from flowrl.layers.grid import Grid
from flowrl.layers.layer import Layer
from flowrl.transforms import Coupling, Transform
from flowrl.transforms.transform import as_rows


class ConvolutionalCoupling(Layer):
    """Half of the channels, at all positions, say through a convolutional network how the other half moves.

    Layers 2 i and 2 i + 1 move the two halves of one seeded order of the channels. The network's last layer starts at
    zero, hence the coupling at the identity.

    :param grid: with 2 channels or more
    :param bijector: affine or spline
    :param index: the layer's place in the flow, which says what it moves
    :param network: called with the number of channels that it sees, the number that it gives and the grid's sides:
        `DilatedNetwork` (one side) or `ImageNetwork` (two sides), its options bound
    """

    keep: Tensor
    change: Tensor
    back: Tensor

    def __init__(self, grid: Grid, bijector: Bijector, index: int, network: Callable[[int, int, tuple[int, ...]], Any]):
        super().__init__()
        self.sides = grid.sides
        self.bijector = bijector
        keep, change = halves(grid.channels, index)
        self.seen = len(keep)
        self.network = network(self.seen, len(change) * bijector.parameters_per_feature, grid.sides)
        self.context_size = self.network.context_size
        starts = grid.channels * torch.arange(grid.positions).unsqueeze(-1)
        self.register_buffer("keep", (starts + keep).flatten(), persistent=False)
        self.register_buffer("change", (starts + change).flatten(), persistent=False)
        self.register_buffer("back", torch.argsort(torch.cat((self.keep, self.change))), persistent=False)

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """Keep the linear map's own start: the network's last layer is zero already."""

    def forward(self, parameters: Tensor) -> Transform:
        return Coupling(partial(self._bijector, context=parameters), self.keep, self.change, self.back)

    def _bijector(self, kept: Tensor, context: Tensor) -> Transform:
        batch, (x, context) = as_rows(kept, context)
        raw = self.network(x.view(-1, *self.sides, self.seen), context)
        return self.bijector(raw.reshape(*batch, len(self.change), self.bijector.parameters_per_feature))


class DilatedNetwork(nn.Module):
    r"""WaveGlow's network (Prenger et al. 2019, section 2.1): dilated convolutions in time, gated, given a state,

    .. math:: g = \tanh(W_f * h + V_f s) \odot \sigma(W_g * h + V_g s), \quad h \leftarrow h + W_r g,

    whose skip outputs :math:`W_k g`, summed over the blocks, are the parameters. V s is the slice of the flow's context
    map. The convolutions are not causal; block i has dilation 2^i, at most what still reaches another step. A trained
    shift of each step's first hidden layer says where in the chunk the step is.

    :param inputs: number of channels that it sees
    :param outputs: number of channels that it gives
    :param sides: ``(steps,)``
    :param width: number of hidden channels
    :param blocks: number of gated blocks
    """

    def __init__(self, inputs: int, outputs: int, sides: tuple[int, ...], width: int = 32, blocks: int = 2):
        super().__init__()
        (steps,) = sides
        self.context_size = blocks * 2 * width
        self.first = nn.Linear(inputs, width, bias=False)
        self.place = nn.Parameter(torch.zeros(steps, width))
        self.dilations = [max(1, min(2**i, steps - 1)) for i in range(blocks)]
        # A convolution is a linear map of a step and its two neighbours, side by side; a single step has none.
        self.taps = min(3, 2 * steps - 1)
        self.gates = nn.ModuleList(nn.Linear(self.taps * width, 2 * width, bias=False) for _ in range(blocks))
        self.residuals = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks - 1))
        # One linear map of all blocks' gated outputs: the sum of their skip connections and the layer after it.
        self.last = _zeros(nn.Linear(blocks * width, outputs))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """
        :param x: shape ``(n, steps, inputs)``
        :param context: shape ``(n, context_size)``
        :return: shape ``(n, steps, outputs)``
        """
        h, gated = self.first(x) + self.place, []
        shifts = context.unflatten(-1, (len(self.gates), 1, -1)).unbind(1)
        for i, (gate, dilation, shift) in enumerate(zip(self.gates, self.dilations, shifts)):
            value, openness = (gate(self._neighbours(h, dilation)) + shift).chunk(2, dim=-1)
            gated.append(torch.tanh(value) * torch.sigmoid(openness))
            if i < len(self.residuals):
                h = h + self.residuals[i](gated[-1])
        return self.last(torch.cat(gated, dim=-1))

    def _neighbours(self, h: Tensor, dilation: int) -> Tensor:
        """Each step between those ``dilation`` before and after it, zeros outside, ``(n, steps, taps * width)``."""
        if self.taps == 1:
            return h
        steps, padded = h.shape[1], F.pad(h, (0, 0, dilation, dilation))
        return torch.cat([padded[:, i * dilation : i * dilation + steps] for i in range(3)], dim=-1)


class ImageNetwork(nn.Module):
    """Glow's network (Kingma and Dhariwal 2018, section 3.3): convolutions of 3x3, 1x1 and 3x3, with ReLUs between.

    The state shifts the first hidden layer, the same at every position, by its slice of the flow's context map.

    :param inputs: number of channels that it sees
    :param outputs: number of channels that it gives
    :param sides: ``(height, width)`` of the image
    :param width: number of hidden channels
    """

    def __init__(self, inputs: int, outputs: int, sides: tuple[int, ...], width: int = 64):
        super().__init__()
        height_and_width: Any = tuple(min(3, 2 * side - 1) for side in sides)
        self.context_size = width
        self.first = nn.Conv2d(inputs, width, height_and_width, padding="same", bias=False)
        self.middle = nn.Conv2d(width, width, 1)
        self.last = _zeros(nn.Conv2d(width, outputs, height_and_width, padding="same"))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """
        :param x: shape ``(n, height, width, inputs)``
        :param context: shape ``(n, context_size)``
        :return: shape ``(n, height, width, outputs)``
        """
        h = self.first(x.movedim(-1, 1)) + context.unflatten(-1, (-1, 1, 1))
        return self.last(self.middle(h.relu()).relu()).movedim(1, -1)


def _zeros(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
