"""What a flow gives for a context: a distribution that samples and scores in one pass, and its KL divergence."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl

from flowrl.layers.seeded import seeded_normal
from flowrl.transforms import Transform


class ReparameterizedDistribution(Distribution):
    """A distribution over vectors (or arrays) that gives a sample and its exact log-prob in one differentiable pass.

    Subclasses write `rsample_and_log_prob`, `log_prob` and `center`; the rest follows.

    :param batch_shape: shape of the batch of distributions
    :param event_shape: d, or the sides of an array; below, read d as the whole shape
    """

    arg_constraints: dict = {}
    support = torch.distributions.constraints.real_vector
    has_rsample = True

    def __init__(self, batch_shape: torch.Size, *event_shape: int):
        super().__init__(batch_shape, torch.Size(event_shape), validate_args=False)

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """
        :param sample_shape: shape of the draw
        :return: x, shape ``(*sample_shape, *batch, d)``, and log p(x), shape ``(*sample_shape, *batch)``
        """
        raise NotImplementedError

    def center(self) -> Tensor:
        """The image of the base's mean, shape ``(*batch, d)``: what a deterministic policy does."""
        raise NotImplementedError

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ReparameterizedDistribution":
        raise NotImplementedError(f"{type(self).__name__} cannot be expanded: expand the context that it is given.")

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.rsample_and_log_prob(sample_shape)[0]

    def entropy(self, n_samples: int = 1) -> Tensor:
        """Monte-Carlo estimate of -E log p, unbiased and differentiable (reparameterised).

        :param n_samples: draws per distribution
        :return: shape ``(*batch,)``, nats
        """
        return -self.rsample_and_log_prob((n_samples,))[1].mean(0)

    def mode(self, n_samples: int = 0) -> Tensor:  # type: ignore[override]
        """A deterministic representative.

        :param n_samples: 0: the image of the base's mean; n: the densest of it and n samples
        :return: shape ``(*batch, d)``
        """
        return highest(*self.candidates(n_samples)) if n_samples else self.center()

    def candidates(self, n: int) -> tuple[Tensor, Tensor]:
        """The center and n samples, from the same seed in every call: torch's own random numbers are left alone.

        :param n: how many samples
        :return: x, shape ``(n + 1, *batch, d)``, and log p(x), shape ``(n + 1, *batch)``
        """
        center = self.center().unsqueeze(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x, log_prob = self.rsample_and_log_prob((n,))
        return torch.cat((center, x)), torch.cat((self.log_prob(center), log_prob))


class NormalizingFlow(ReparameterizedDistribution):
    """Standard normal noise pushed through a transform: log p(x) = log N(z; 0, I) - ladj(z) with x = T(z).

    :param transform: T, noise to value
    :param like: any tensor of shape ``(*batch, d)`` with the dtype and device of the samples
    """

    def __init__(self, transform: Transform, like: Tensor):
        super().__init__(like.shape[:-1], like.shape[-1])
        self.transform = transform
        self._like = like

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NormalizingFlow":
        """The same distribution for each element of a larger batch, see torch's `Distribution.expand`."""
        return type(self)(self.transform, self._like.expand(*batch_shape, -1))

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        return self.from_noise_and_log_prob(self._noise(sample_shape))

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.transform.call_and_ladj(self._noise(sample_shape))[0]

    def from_noise(self, z: Tensor) -> Tensor:
        """
        :param z: noise, shape ``(*batch, d)``
        :return: its image T(z), of the same shape
        """
        return self.transform.call_and_ladj(z)[0]

    def from_noise_and_log_prob(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param z: noise, shape ``(*batch, d)``
        :return: its image T(z), of the same shape, and the image's log-density, shape ``(*batch,)``
        """
        x, ladj = self.transform.call_and_ladj(z)
        return x, standard_normal_log_prob(z) - ladj

    def to_noise(self, value: Tensor) -> Tensor:
        """
        :param value: shape ``(*batch, d)``
        :return: the noise that it is the image of, of the same shape
        :raises ValueError: for values of another size than d
        """
        return self.transform.inverse_and_ladj(self._expanded(value))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """
        :param value: shape ``(*batch, d)``
        :return: shape ``(*batch,)``, nats
        :raises ValueError: for values of another size than d
        """
        z, ladj = self.transform.inverse_and_ladj(self._expanded(value))
        return standard_normal_log_prob(z) - ladj

    def center(self) -> Tensor:
        return self.transform.call_and_ladj(torch.zeros_like(self._like))[0]

    def candidates(self, n: int) -> tuple[Tensor, Tensor]:
        """As of every distribution; the noise is that of every state, so that no state's depend on the batch."""
        return self.candidates_of(candidate_noise(n, self._like.shape[-1]))

    def candidates_of(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param noise: of :func:`candidate_noise`, shape ``(n + 1, d)``
        :return: its images in every state, shape ``(n + 1, *batch, d)``, and their log-densities, ``(n + 1, *batch)``
        """
        z = noise.to(self._like).view(noise.shape[0], *(1 for _ in self.batch_shape), -1)
        return self.from_noise_and_log_prob(z.expand(noise.shape[0], *self._like.shape))

    def _expanded(self, value: Tensor) -> Tensor:
        value = value.to(self._like.dtype)
        if value.shape == self._like.shape:
            return value
        is_one_number = value.dim() == 0 and self.event_shape[0] == 1
        if value.shape[-1:] != self.event_shape and not is_one_number:
            raise ValueError(f"A value has {self.event_shape[0]} numbers, got a tensor of shape {tuple(value.shape)}.")
        return value.expand(torch.broadcast_shapes(value.shape, self._like.shape))

    def _noise(self, sample_shape: tuple[int, ...]) -> Tensor:
        return torch.randn((*sample_shape, *self._like.shape), dtype=self._like.dtype, device=self._like.device)

    def log_det(self, value: Tensor) -> Tensor:
        """log|det dx/dz| at a value, shape ``(*batch,)``: how far the flow stretches the noise there."""
        return self.transform.inverse_and_ladj(self._expanded(value))[1]


def candidate_noise(n: int, features: int) -> Tensor:
    """Zero, the base's mean, and n draws, the same ones in every call; shape ``(n + 1, features)``."""
    noise = seeded_normal(n, features, seed=0)
    return torch.cat((torch.zeros_like(noise[:1]), noise))


def highest(x: Tensor, score: Tensor) -> Tensor:
    """The one of the highest score, ``(n, *batch, *event), (n, *batch) -> (*batch, *event)``."""
    best = score.argmax(0, keepdim=True)
    return x.gather(0, best.view(*best.shape, *(1 for _ in x.shape[best.dim() :])).expand(1, *x.shape[1:])).squeeze(0)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), ``(*batch, d) -> (*batch,)``."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


@register_kl(ReparameterizedDistribution, ReparameterizedDistribution)
def _kl_monte_carlo(p: ReparameterizedDistribution, q: ReparameterizedDistribution) -> Tensor:
    """E_p[log p - log q] from one reparameterised sample: unbiased, differentiable in both."""
    x, log_prob = p.rsample_and_log_prob()
    return log_prob - q.log_prob(x)
