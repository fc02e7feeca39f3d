"""Linear layers: shears from the context, Glow's invertible linear map, activation normalisation, reorderings."""

import torch
from torch import Tensor, nn

from flowrl.layers.bijectors import LOG_SCALE_LIMIT
from flowrl.layers.layer import Layer
from flowrl.layers.seeded import seeded_normal, seeded_order
from flowrl.transforms import Affine, LowRankShear, LULinear, Permutation, Shear, Transform, bounded

MIN_STD = 1e-6  # what a feature that never varies counts as in a start from data


class ShearLayer(Layer):
    """Shear from the context; with the flow's own mean and scale after it, a Gaussian of full covariance.

    :param features: d
    :param upper: whether the matrix is upper triangular; alternate it between layers
    """

    index: Tensor

    def __init__(self, features: int, upper: bool = False):
        super().__init__()
        self.upper = upper
        self.features = features
        self.context_size = features * (features - 1) // 2
        self.register_buffer("index", triangular_index(features, upper), persistent=False)

    def forward(self, parameters: Tensor) -> Transform:
        one = parameters.new_ones(*parameters.shape[:-1], self.features)
        return Shear(triangular_matrix(one, parameters, self.index), self.upper)


class LowRankShearLayer(Layer):
    """Shear from the context with 2 d r parameters in place of d (d - 1) / 2; at the start u = 0, the identity.

    Its slice of the context map holds all of u, then all of v, each as ``(d, r)``, row by row.

    :param features: d
    :param rank: r
    :param upper: whether the matrix is upper triangular; alternate it between layers
    """

    def __init__(self, features: int, rank: int, upper: bool = False):
        super().__init__()
        self.features, self.rank, self.upper = features, rank, upper
        self.context_size = 2 * features * rank

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """Seeded v, away from zero, lest u have no gradient."""
        super().reset_context(weight, bias)
        v = seeded_normal(self.features * self.rank, seed=0)
        with torch.no_grad():
            bias[len(v) :] = v / self.rank**0.5

    def forward(self, parameters: Tensor) -> Transform:
        u, v = parameters.unflatten(-1, (2, self.features, self.rank)).unbind(-3)
        return LowRankShear(u, v, self.upper)


class InvertibleLinear(Layer):
    """Glow's invertible 1x1 convolution for vectors: the matrix L U, the same in every state, starting at the identity.

    With a permutation before it (`Shuffle`), L U reaches any invertible matrix (Kingma and Dhariwal 2018, section 3.2).

    :param features: d
    """

    lower_index: Tensor
    upper_index: Tensor

    def __init__(self, features: int):
        super().__init__()
        shears = features * (features - 1) // 2
        self.lower = nn.Parameter(torch.zeros(shears))
        self.upper = nn.Parameter(torch.zeros(shears))
        self.log_diagonal = nn.Parameter(torch.zeros(features))
        self.register_buffer("lower_index", triangular_index(features, upper=False), persistent=False)
        self.register_buffer("upper_index", triangular_index(features, upper=True), persistent=False)

    def forward(self, parameters: Tensor) -> Transform:
        diagonal = bounded(self.log_diagonal, LOG_SCALE_LIMIT).exp()
        lower = triangular_matrix(torch.ones_like(diagonal), self.lower, self.lower_index)
        return LULinear(lower, triangular_matrix(diagonal, self.upper, self.upper_index))


class ActNorm(Layer):
    """Activation normalisation: an elementwise affine map, the same in every state, starting at the identity.

    Its data-dependent start is a call of :meth:`initialize`, never automatic: a policy's rollout is a batch of one.

    :param features: d
    """

    def __init__(self, features: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, parameters: Tensor) -> Transform:
        return Affine(self.shift, bounded(self.log_scale, LOG_SCALE_LIMIT))

    @torch.no_grad()
    def initialize(self, y: Tensor, parameters: Tensor | None = None) -> None:
        """Set shift and scale so that these outputs come from inputs of mean 0 and variance 1 (section 3.1).

        :param y: values on the data side of the layer, two or more, shape ``(*batch, d)``
        :param parameters: not used: the layer takes nothing from the context
        """
        y = y.reshape(-1, y.shape[-1])
        self.shift.copy_(y.mean(0))
        # atanh undoes bounded(); its argument is kept inside (-1, 1)
        ratio = (y.std(0).clamp_min(MIN_STD).log() / LOG_SCALE_LIMIT).clamp(-0.999, 0.999)
        self.log_scale.copy_(LOG_SCALE_LIMIT * torch.atanh(ratio))


class Reorder(Layer):
    """A fixed reordering of the features.

    :param order: where each output feature comes from, a permutation of ``0 ... d - 1``, shape ``(d,)``
    :raises ValueError: for an order that is none
    """

    order: Tensor

    def __init__(self, order: Tensor):
        super().__init__()
        is_whole = not order.is_floating_point()
        if not order.is_meta and not (is_whole and sorted(order.tolist()) == list(range(len(order)))):
            raise ValueError(f"An order of {len(order)} features has each of 0 ... {len(order) - 1} once, got {order}.")
        self.register_buffer("order", order, persistent=False)

    def forward(self, parameters: Tensor) -> Transform:
        return Permutation(self.order)


class Shuffle(Reorder):
    """A fixed reordering of the features, drawn from a seed.

    :param features: d
    :param seed: the same seed gives the same order
    """

    def __init__(self, features: int, seed: int):
        super().__init__(seeded_order(features, seed))


def triangular_index(features: int, upper: bool) -> Tensor:
    """Where each entry of a triangular matrix, read row by row, stands in (diagonal, shears, 0); shape ``(d * d,)``."""
    shears = features * (features - 1) // 2
    index = torch.full((features, features), features + shears)
    rows, columns = torch.triu_indices(features, features, 1) if upper else torch.tril_indices(features, features, -1)
    index[rows, columns] = features + torch.arange(shears)
    index.diagonal().copy_(torch.arange(features))
    return index.flatten()


def triangular_matrix(diagonal: Tensor, shear: Tensor, index: Tensor) -> Tensor:
    """The matrix of :func:`triangular_index`, ``(*, d), (*, d (d - 1) / 2) -> (*, d, d)``."""
    entries = torch.cat((diagonal, shear, torch.zeros_like(diagonal[..., :1])), dim=-1)
    return entries.index_select(-1, index).unflatten(-1, (diagonal.shape[-1], diagonal.shape[-1]))
