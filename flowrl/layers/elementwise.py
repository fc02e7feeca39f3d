"""Elementwise layers: each feature moves by itself, as the context alone says."""

from torch import Tensor

from flowrl.layers.bijectors import Bijector
from flowrl.layers.layer import Layer
from flowrl.transforms import Inverse, Transform


class Elementwise(Layer):
    """A bijector of every feature whose parameters all come from the context: no network of its own.

    :param features: d
    :param bijector: what moves them
    :param inverse: whether the bijector is of value to noise: its fast direction is then the log-prob
    """

    compiled_numbers = ("bijector", "inverse")

    def __init__(self, features: int, bijector: Bijector, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.bijector = bijector
        self.context_size = features * bijector.parameters_per_feature

    def forward(self, parameters: Tensor) -> Transform:
        transform = self.bijector(parameters.unflatten(-1, (-1, self.bijector.parameters_per_feature)))
        return Inverse(transform) if self.inverse else transform
