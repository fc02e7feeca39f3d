"""What every distribution of this library can do once it samples and scores in one pass; and its KL divergence."""

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl


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
        center = self.center()
        if n_samples == 0:
            return center
        x, log_prob = self.rsample_and_log_prob((n_samples,))
        x = torch.cat((center.unsqueeze(0), x))
        log_prob = torch.cat((self.log_prob(center).unsqueeze(0), log_prob))
        best = log_prob.argmax(0).reshape(1, *self.batch_shape, *(1 for _ in self.event_shape)).expand(1, *center.shape)
        return x.gather(0, best).squeeze(0)


@register_kl(ReparameterizedDistribution, ReparameterizedDistribution)
def _kl_monte_carlo(p: ReparameterizedDistribution, q: ReparameterizedDistribution) -> Tensor:
    """E_p[log p - log q] from one reparameterised sample: unbiased, differentiable in both."""
    x, log_prob = p.rsample_and_log_prob()
    return log_prob - q.log_prob(x)
