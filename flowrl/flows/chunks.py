"""`SequenceFlow`: exact distributions over chunks of actions, H steps of d actions each, given a state."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import constraints

from flowrl.flows.distribution import ReparameterizedDistribution
from flowrl.flows.flow import Flow
from flowrl.options import whole


class SequenceDistribution(ReparameterizedDistribution):
    """A distribution over chunks, event shape ``(horizon, d)``, from one over their flattened vectors.

    :param vectors: over vectors of size horizon times d
    :param horizon: number of steps
    """

    support = constraints.independent(constraints.real, 2)

    def __init__(self, vectors: ReparameterizedDistribution, horizon: int):
        super().__init__(vectors.batch_shape, horizon, vectors.event_shape.numel() // horizon)
        self.vectors = vectors

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        x, log_prob = self.vectors.rsample_and_log_prob(sample_shape)
        return x.unflatten(-1, self.event_shape), log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of whole chunks: one number for all of their steps together.

        :param value: shape ``(*, horizon, d)``
        :return: shape ``(*,)``
        """
        if value.shape[-2:] != self.event_shape:
            steps, features = self.event_shape
            raise ValueError(f"A chunk has shape (*, {steps}, {features}), got {tuple(value.shape)}.")
        return self.vectors.log_prob(value.flatten(-2))

    def center(self) -> Tensor:
        return self.vectors.center().unflatten(-1, self.event_shape)


class SequenceFlow(nn.Module):
    """A flow over chunks of actions: WaveGlow (Prenger et al. 2019) with Glow's scales, conditional on the state.

    The log-prob is exact for the whole chunk, and a new flow is exactly the Gaussian of its context, as with
    :class:`flowrl.Flow`, which does the work on flattened chunks; the recipe ``"waveglow"`` is the same flow by name.

    :param horizon: H, number of steps of a chunk
    :param features: d, dimension of one action
    :param context: dimension of the context; 0 gives an unconditional flow
    :param coupling: ``"affine"`` or ``"spline"``
    :param options: the others of :func:`flowrl.flows.images.waveglow`
    :raises ValueError: for sizes below one, or options that the recipe does not take
    """

    def __init__(self, horizon: int, features: int, context: int = 0, coupling: str = "affine", **options: Any):
        super().__init__()
        horizon, features = whole("horizon", horizon, 1), whole("features", features, 1)
        self.horizon = horizon
        self.features = features
        self.flow = Flow(horizon * features, context, "waveglow", horizon=horizon, coupling=coupling, **options)

    def forward(self, context: Tensor | None = None) -> SequenceDistribution:
        """
        :param context: shape ``(*batch, context)``; None where the flow is unconditional
        :return: the distribution of chunks given the context, batch shape ``(*batch,)``, event shape ``(H, d)``
        """
        return SequenceDistribution(self.flow(context), self.horizon)

    def initialize(self, chunks: Tensor, context: Tensor | None = None) -> None:
        """Start from data, see :meth:`flowrl.Flow.initialize`.

        :param chunks: shape ``(batch, H, d)``
        :param context: the context of each, shape ``(batch, context)``
        :raises ValueError: for chunks of another shape
        """
        if chunks.shape[-2:] != (self.horizon, self.features):
            raise ValueError(
                f"chunks must have the shape (batch, {self.horizon}, {self.features}), got {tuple(chunks.shape)}."
            )
        self.flow.initialize(chunks.flatten(-2), context)
