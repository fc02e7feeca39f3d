"""Planar and radial layers (Rezende and Mohamed 2015), every parameter from the context."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.layers.layer import Layer
from flowrl.layers.seeded import seeded_normal
from flowrl.transforms import Planar, Radial, Transform, planar_displacement

MIN_RADIAL = 1e-2  # smallest alpha and gamma: bounds the squeeze at the centre


class PlanarLayer(Layer):
    """A planar map; a zero displacement is the identity, so that the direction w starts away from zero.

    :param features: d
    :param index: the layer's place in the flow, which seeds its first direction
    """

    def __init__(self, features: int, index: int):
        super().__init__()
        self.features = features
        self.index = index
        self.context_size = 2 * features + 1

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        super().reset_context(weight, bias)
        direction = seeded_normal(self.features, seed=self.index)
        with torch.no_grad():
            bias[: self.features] = direction / direction.norm()

    def forward(self, parameters: Tensor) -> Transform:
        w, u, b = parameters.split((self.features, self.features, 1), dim=-1)
        return Planar(w, planar_displacement(w, u), b.squeeze(-1))


class RadialLayer(Layer):
    """A radial map; it starts at the identity around the origin (beta = 0).

    :param features: d
    """

    def __init__(self, features: int):
        super().__init__()
        self.features = features
        self.context_size = features + 2

    def forward(self, parameters: Tensor) -> Transform:
        center, raw = parameters.split((self.features, 2), dim=-1)
        alpha, gamma = (MIN_RADIAL + F.softplus(raw)).unbind(-1)
        return Radial(center, alpha, gamma)
