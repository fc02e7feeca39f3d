"""The coupling layer: half of the features, through a small network, say how the other half moves."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowrl.layers.bijectors import Bijector
from flowrl.layers.conditioner import Conditioner
from flowrl.layers.layer import Layer
from flowrl.layers.seeded import seeded_order
from flowrl.transforms import Coupling, Transform


class CouplingLayer(Layer):
    """Affine (RealNVP, Dinh et al. 2017) or spline (Neural Spline Flows, Durkan et al. 2019) coupling.

    Layers 2 i and 2 i + 1 move the first and the last half of one seeded order of the features, so that two of them
    leave nothing unchanged.

    :param features: d >= 2 (at d = 1 nothing is left to condition on: use `Elementwise`)
    :param bijector: affine or spline
    :param index: the layer's place in the flow, which says what it moves
    :param hidden: widths of the network's hidden layers
    """

    keep: Tensor
    change: Tensor
    back: Tensor

    def __init__(self, features: int, bijector: Bijector, index: int, hidden: Sequence[int]):
        super().__init__()
        self.context_size = hidden[0]
        keep, change = halves(features, index)
        self.register_buffer("change", change, persistent=False)
        self.register_buffer("keep", keep, persistent=False)
        self.register_buffer("back", torch.argsort(torch.cat((keep, change))), persistent=False)
        widths = (*hidden, len(change) * bijector.parameters_per_feature)
        first = nn.Linear(len(keep), hidden[0], bias=False)
        self.conditioner = Conditioner([first, *(nn.Linear(m, n) for m, n in pairwise(widths))], bijector)

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """Keep the linear map's own start: the conditioner's last layer is zero already."""

    def forward(self, parameters: Tensor) -> Transform:
        return Coupling(partial(self.conditioner, context=parameters), self.keep, self.change, self.back)


def halves(features: int, index: int) -> tuple[Tensor, Tensor]:
    """What the coupling at this place keeps and what it changes: the two halves of a seeded order, or the reverse.

    :param features: d >= 2
    :param index: layers 2 i and 2 i + 1 have one order
    :return: indices in ascending order, of ``d // 2`` features that stay and of the others, which move
    """
    order = seeded_order(features, seed=index // 2)
    if index % 2:
        order = order.flip(0)
    half = (features + 1) // 2
    return order[half:].sort().values, order[:half].sort().values
