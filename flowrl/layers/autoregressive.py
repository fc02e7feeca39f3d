"""The masked autoregressive layer: one masked network (MADE) gives every feature's parameters from those before it."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowrl.layers.bijectors import Bijector
from flowrl.layers.conditioner import Conditioner
from flowrl.layers.layer import Layer
from flowrl.layers.seeded import seeded_order
from flowrl.transforms import Autoregressive, Compose, Inverse, Permutation, Transform


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by a fixed mask (Germain et al. 2015, MADE, eq. 12).

    :param mask: which inputs each output sees, boolean, shape ``(out, in)``
    """

    mask: Tensor

    def __init__(self, mask: Tensor, bias: bool = True):
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask, persistent=False)

    @property
    def masked_weight(self) -> Tensor:
        """The weight that counts."""
        return self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.masked_weight, self.bias)


def hidden_degrees(features: int, width: int) -> Tensor:
    """
    How many features each hidden unit may see: none (the context alone) to all but the last, in turns.

    Fewer units than features are spread from none to all but the last: in turns, no unit would see the later features,
    which then condition nothing.

    :return: integers, shape ``(width,)``
    """
    units = torch.arange(width)
    return units % features if width >= features else units * (features - 1) // max(width - 1, 1)


class AutoregressiveLayer(Layer):
    """Masked autoregressive layer with an affine, sigmoidal or spline bijector, in either orientation.

    :param features: d
    :param bijector: what moves a feature as those before it say
    :param index: the layer's place in the flow, which seeds the order of its features
    :param hidden: widths of the network's hidden layers
    :param fast_sampling: True: IAF (one pass to sample, d for the log-prob of a given point); False: MAF, the reverse
    """

    order: Tensor

    def __init__(self, features: int, bijector: Bijector, index: int, hidden: Sequence[int], fast_sampling: bool):
        super().__init__()
        self.fast_sampling = fast_sampling
        self.context_size = hidden[0]
        self.register_buffer("order", seeded_order(features, seed=index), persistent=False)
        # Feature i has degree i + 1; a hidden unit of degree m sees the features of degree <= m, and feature i's
        # parameters see the hidden units of degree <= i. Units of degree 0 see the context alone.
        inputs = torch.arange(1, features + 1)
        degrees = [hidden_degrees(features, width) for width in hidden]
        outputs = torch.arange(features).repeat_interleave(bijector.parameters_per_feature)
        first = MaskedLinear(degrees[0][:, None] >= inputs, bias=False)
        between = [MaskedLinear(n[:, None] >= m) for m, n in pairwise(degrees)]
        last = MaskedLinear(outputs[:, None] >= degrees[-1])
        self.conditioner = Conditioner([first, *between, last], bijector)

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """Keep the linear map's own start: the conditioner's last layer is zero already."""

    def forward(self, parameters: Tensor) -> Transform:
        transform: Transform = Autoregressive(partial(self.conditioner, context=parameters))
        if not self.fast_sampling:
            transform = Inverse(transform)
        return Compose([Permutation(self.order), transform])
