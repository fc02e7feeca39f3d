"""The small network of coupling and autoregressive layers: from other features and the context to a bijector."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from flowrl.layers.bijectors import Bijector
from flowrl.layers.gain import Gained
from flowrl.transforms import Transform


class Conditioner(Gained):
    """A ReLU network whose first linear layer is split, W [x; context] = W_x x + slice of the flow's context map.

    Its last layer starts at zero, hence the bijector at the identity. It is g W h + b; the gain g is
    1 until another is set, and in files of version 1.

    :param linears: the linear layers, the first without a bias (the slice has it)
    :param bijector: what the outputs are parameters of
    """

    compiled_numbers = ("gain", "bijector")

    def __init__(self, linears: Sequence[nn.Linear], bijector: Bijector):
        super().__init__()
        self.bijector = bijector
        self.linears = nn.ModuleList(linears)
        nn.init.zeros_(linears[-1].weight)
        nn.init.zeros_(linears[-1].bias)
        self.start_gain(1.0)

    def forward(self, x: Tensor, context: Tensor, feature: int | None = None) -> Transform:
        """
        :param x: the features that condition, shape ``(*batch, n)``
        :param context: the layer's slice of the context map, shape ``(*batch, width of the first layer)``
        :param feature: which of the conditioned features is asked for; None: all
        :return: the elementwise transform of the features that are conditioned
        """
        linears: Any = self.linears
        weights = [getattr(linear, "masked_weight", linear.weight) for linear in linears]
        biases = [linear.bias for linear in linears[1:]]
        size = self.bijector.parameters_per_feature
        if feature is not None:
            rows = slice(feature * size, (feature + 1) * size)
            weights[-1], biases[-1] = weights[-1][rows], biases[-1][rows]
        if self.gain != 1.0:
            weights[-1] = self.gain * weights[-1]
        h = F.linear(x, weights[0]) + context
        for weight, bias in zip(weights[1:], biases, strict=True):
            h = F.linear(h.relu(), weight, bias)
        return self.bijector(h.unflatten(-1, (-1, size)))
