"""Grids of positions and channels, one-dimensional (time) or two-dimensional (images), and the layers that act on them.

A grid is kept as a flat vector, row by row, the channels of one position side by side; so that its layers are layers
like any others, and a chunk of actions of shape (steps, d) flattens into it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowrl.layers.layer import Layer, initialize_layers
from flowrl.transforms import Compose, Pointwise, Split, Transform


@dataclass(frozen=True)
class Grid:
    """Positions, each with a vector of channels.

    :param sides: number of positions along each axis: ``(steps,)`` or ``(height, width)``
    :param channels: size of the vector at each position
    """

    sides: tuple[int, ...]
    channels: int

    @property
    def positions(self) -> int:
        """Number of positions."""
        return math.prod(self.sides)

    @property
    def features(self) -> int:
        """Size of the flat vector."""
        return self.positions * self.channels

    def squeezed(self) -> Grid:
        """The grid after Glow's squeeze, which folds neighbouring positions into channels.

        Pairs along every axis where all sides are even. Else nothing is folded, or everything where one channel alone
        would leave a coupling nothing to condition on.
        """
        fold = self._fold()
        sides = tuple(side // pace for side, pace in zip(self.sides, fold))
        return Grid(sides, self.channels * math.prod(fold))

    def squeeze_order(self) -> Tensor:
        """Where each feature of the squeezed grid stands in this one, shape ``(features,)``.

        In one dimension it is ``0, 1, 2, ...``: there the squeeze renames positions and moves nothing.
        """
        fold, axes = self._fold(), range(len(self.sides))
        pairs = [size for side, pace in zip(self.sides, fold) for size in (side // pace, pace)]
        blocks = torch.arange(self.features).reshape(*pairs, self.channels)
        return blocks.permute(*(2 * a for a in axes), *(2 * a + 1 for a in axes), -1).flatten()

    def split_order(self, kept: int) -> Tensor:
        """Where each feature stands once the first ``kept`` channels of all positions come before all others."""
        first = self.positions * kept
        rest = torch.arange(first, self.features).reshape(self.positions, -1)
        return torch.cat((torch.arange(first).reshape(self.positions, kept), rest), dim=1).flatten()

    def _fold(self) -> tuple[int, ...]:
        if all(side % 2 == 0 for side in self.sides):
            return (2,) * len(self.sides)
        return (1,) * len(self.sides) if self.channels > 1 else self.sides


class PointwiseLayer(Layer):
    """A layer of the channels, applied at every position with the same parameters.

    Of `InvertibleLinear` it makes Glow's invertible 1x1 convolution, of `ActNorm` its activation normalisation.

    :param layer: a layer of vectors of size ``channels``
    :param channels: size of the vector at one position
    """

    def __init__(self, layer: Layer, channels: int):
        super().__init__()
        self.layer = layer
        self.channels = channels
        self.context_size = layer.context_size

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        self.layer.reset_context(weight, bias)

    def initialize(self, y: Tensor, parameters: Tensor) -> None:
        self.layer.initialize(y.unflatten(-1, (-1, self.channels)), parameters.unsqueeze(-2))

    def forward(self, parameters: Tensor) -> Transform:
        return Pointwise(self.layer(parameters.unsqueeze(-2)), self.channels)


class SplitLayer(Layer):
    """Layers of the first features alone; the others have left the flow (or, sampling, have not yet entered it).

    :param features: how many go through the layers
    :param layers: noise to data
    """

    def __init__(self, features: int, layers: Sequence[Layer]):
        super().__init__()
        self.features = features
        self.layers = nn.ModuleList(layers)
        self.sizes = [layer.context_size for layer in layers]
        self.context_size = sum(self.sizes)

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        for layer, rows, part in zip(self.layers, weight.split(self.sizes), bias.split(self.sizes), strict=True):
            layer.reset_context(rows, part)  # type: ignore[operator]

    def initialize(self, y: Tensor, parameters: Tensor) -> None:
        initialize_layers(list(self.layers), y[..., : self.features], parameters.split(self.sizes, dim=-1))  # type: ignore[arg-type]

    def forward(self, parameters: Tensor) -> Transform:
        slices = parameters.split(self.sizes, dim=-1)
        return Split(Compose([layer(part) for layer, part in zip(self.layers, slices, strict=True)]), self.features)
