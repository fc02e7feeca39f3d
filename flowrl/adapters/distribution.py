"""Bring your own flow: any distribution with `log_prob` and `rsample` under this library's interface."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from flowrl.flows.distribution import ReparameterizedDistribution, highest
from flowrl.flows.precision import without_autocast

CENTER_SAMPLES = 64  # draws among which the densest stands for a distribution without any mode or mean


class ExternalDistribution(ReparameterizedDistribution):
    """Wraps what a module of another library returned for a context (zuko's flows do as they are).

    :param distribution: has ``log_prob`` and ``rsample``, or zuko's ``rsample_and_log_prob``, over vectors of size d
    :param features: d
    :raises ValueError: if it lacks them, or is over something else
    """

    def __init__(self, distribution: Any, features: int):
        for method in ("log_prob", "rsample"):
            if not callable(getattr(distribution, method, None)):
                raise ValueError(
                    f"A flow must return a distribution with log_prob and rsample; "
                    f"{type(distribution).__name__} has no {method}."
                )
        if not _has_rsample(distribution):
            raise ValueError(
                f"A flow must return a distribution with rsample, samples that have gradients, and "
                f'{type(distribution).__name__} has none (has_rsample=False): flow="nsf" or "naf" have them, and take '
                "several modes too."
            )
        event_shape = tuple(getattr(distribution, "event_shape", (features,)))
        if event_shape != (features,):
            raise ValueError(
                f"A flow over {features} features must have event shape ({features},), got {event_shape}; wrap "
                "elementwise distributions in torch.distributions.Independent."
            )
        super().__init__(torch.Size(getattr(distribution, "batch_shape", ())), features)
        self.distribution = distribution

    @without_autocast()
    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        shape = torch.Size(sample_shape)
        fused = getattr(self.distribution, "rsample_and_log_prob", None)
        if fused is not None:
            return fused(shape)
        x = self.distribution.rsample(shape)
        return x, self.distribution.log_prob(x)

    @without_autocast()
    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.distribution.rsample(torch.Size(sample_shape))

    @without_autocast()
    def log_prob(self, value: Tensor) -> Tensor:
        return self.distribution.log_prob(value)

    @without_autocast()
    def center(self) -> Tensor:
        """
        The base's mean pushed through (torch's or zuko's flow), else the distribution's own mean; the mode where the
        mean is not finite, as a Cauchy's. Without either the densest of a draw.
        """
        distribution = self.distribution
        if isinstance(distribution, TransformedDistribution):
            base, transforms = distribution.base_dist, distribution.transforms
        elif hasattr(distribution, "transform") and hasattr(distribution, "base"):  # zuko: transform maps data to noise
            base, transforms = distribution.base, [distribution.transform.inv]
        else:
            base, transforms = distribution, []
        x = _mean_or_mode(base)
        if x is None:
            return densest(self)
        x = x.expand(torch.broadcast_shapes(x.shape, (*self.batch_shape, x.shape[-1])))
        for transform in transforms:
            x = transform(x)
        return x


def _has_rsample(distribution: Any) -> bool:
    """Whether the method that every distribution of torch has does anything."""
    if getattr(distribution, "has_rsample", True):
        return True
    says_so = next(owner for owner in type(distribution).__mro__ if "has_rsample" in vars(owner)) is not Distribution
    return not says_so and getattr(distribution.rsample, "__func__", None) is not Distribution.rsample


def _mean_or_mode(distribution: Any) -> Tensor | None:
    """The mean, the mode in its place where it is not finite; None: the distribution has neither."""
    mean, mode = (_statistic(distribution, name) for name in ("mean", "mode"))
    if mean is None:
        return mode
    if mode is None:
        return mean if mean.isfinite().all() else None
    return torch.where(mean.isfinite(), mean, mode)


def _statistic(distribution: Any, name: str) -> Tensor | None:
    try:
        value = getattr(distribution, name)
    except (NotImplementedError, AttributeError):
        return None
    return value if isinstance(value, Tensor) else None


def densest(distribution: ReparameterizedDistribution) -> Tensor:
    """The densest of a draw that is always the same and leaves torch's random numbers alone, shape ``(*batch, d)``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, log_prob = distribution.rsample_and_log_prob((CENTER_SAMPLES,))
    return highest(x, log_prob)
