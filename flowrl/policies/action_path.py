"""The path that ends in the action which the environment executes; and Stable-Baselines3's interface to it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl

from flowrl.flows.path import NOISE_LAYERS, NOISE_STD, PathDistribution, PathFlow
from flowrl.policies.action_distribution import SATURATED, SQUASH, FlowDistribution, kl_on_scored


class ActionPath(Distribution):
    r"""Paths (w_0, ..., w_K = u), whose action is a = tanh(u), with their exact density.

    The density is that of (w_0, ..., w_{K-1}, a), addressed by u: the path's, less the tanh's log-determinant.

    :param paths: distribution of the paths
    :param squash: whether a = tanh(u), else a = u
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, paths: PathDistribution, squash: bool):
        super().__init__(paths.batch_shape, paths.event_shape, validate_args=False)
        self.paths = paths
        self.action_dim = paths.event_shape[0] // len(paths.segments)
        self.squash = SQUASH if squash else None
        # What was last asked for, which TRPO's KL estimate reuses (SB3's KL is not told the stored paths).
        self.scored: tuple[Tensor, Tensor] | None = None

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.paths.rsample(sample_shape)

    def rsample_and_path_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """
        :param sample_shape: shape of the draw
        :return: paths, shape ``(*sample_shape, *batch, (K + 1) d)``; log-densities, ``(*sample_shape, *batch)``
        """
        path, log_prob = self.paths.rsample_and_path_log_prob(sample_shape)
        return path, log_prob - self._ladj(path, log_prob)

    def from_noise_and_path_log_prob(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param z: noise, shape ``(*batch, (K + 1) d)``
        :return: the paths that it becomes, of the same shape, and their log-densities, shape ``(*batch,)``
        """
        path, log_prob = self.paths.from_noise_and_path_log_prob(z)
        return path, log_prob - self._ladj(path, log_prob)

    def path_log_prob(self, path: Tensor) -> Tensor:
        """
        :param path: shape ``(*batch, (K + 1) d)``
        :return: log-density of (w_0, ..., w_{K-1}, a), shape ``(*batch,)``
        """
        log_prob = self.paths.path_log_prob(path)
        log_prob = log_prob - self._ladj(path, log_prob)
        self.scored = (path, log_prob)
        return log_prob

    def entropy_bound(self, n_samples: int = 1) -> Tensor:
        r"""A lower bound of the action's differential entropy, from reparameterised samples: it has a gradient.

        Write w for :math:`(w_0, ..., w_{K-1})`. For any density r of the way back,

        .. math:: H(a) = E[-\log p(a)] = E[-\log p(w, a) + \log p(w \mid a)]
                       = E[-\log p(w, a) + \log r(w \mid a)] + E_a \, KL(p(w \mid a) \,\|\, r(w \mid a))

        and a divergence is never negative. Here r goes back by its own kernels from the end,
        :math:`r(w \mid a) = \prod_{k=1}^K r_k(w_{k-1} \mid y_k), y_K = T_K^{-1}(\tanh^{-1} a), y_k = T_k^{-1}(w_k)`:
        each y_k is a function of what the path holds after w_{k-1}, so that the product is a density of w. With the
        path's density written out,

        .. math:: H(a) \ge E\Big[-\log N(z; 0, I) + \sum_{k=0}^K \log|\det T_k'|
                  + \sum_{k=1}^K \big(\log r_k(w_{k-1} \mid y_k) - \log q_k(y_k \mid w_{k-1})\big)
                  + \log|\det \tanh'(u)|\Big]

        The bound holds for the entropy on [-1, 1], squash included. Its gradient trains the kernels r as well, towards
        p(w | a); where nothing asks for it (PPO with ``ent_coef=0``, TRPO) they stay what they were.

        :param n_samples: draws per distribution
        :return: shape ``(*batch,)``, nats
        """
        path, log_prob, way_back = self.paths.rsample_with_way_back((n_samples,))
        return (way_back - log_prob + self._ladj(path, log_prob)).mean(0)

    def center(self) -> Tensor:
        return self.paths.center()

    def end(self, path: Tensor) -> Tensor:
        """u, the last d numbers of a path."""
        return path[..., -self.action_dim :]

    def executed(self, path: Tensor) -> Tensor:
        """The action a of a path, in [-1, 1] where squashed."""
        return torch.tanh(self.end(path)) if self.squash is not None else self.end(path)

    @torch.no_grad()
    def diagnostics(self, center: float | Tensor = 0.0, half: float | Tensor = 1.0) -> dict[str, float]:
        """One path per state, summed up: bound of the entropy (nats), saturated fraction, range of the segments'
        log-determinants together, and the noise layers' mean standard deviation.

        :param center: middle of the box of actions, where they are not squashed
        :param half: half its width; the entropy is that on [-1, 1] once the box is scaled to it
        """
        path, log_prob, way_back = self.paths.rsample_with_way_back()
        half = torch.as_tensor(half, dtype=path.dtype, device=path.device).expand(self.action_dim)
        bound = way_back - log_prob + self._ladj(path, log_prob) - half.log().sum()
        log_det = self.paths.log_det(path)
        std = torch.stack([step.log_std.exp().mean() for step in self.paths.steps])
        return {
            "entropy_bound": bound.mean().item(),
            "saturation": (((self.executed(path) - center) / half).abs() > SATURATED).float().mean().item(),
            "log_det_min": log_det.min().item(),
            "log_det_max": log_det.max().item(),
            "noise_std": std.mean().item(),
        }

    def _ladj(self, path: Tensor, like: Tensor) -> Tensor | float:
        """The squash's log-determinant at a path's end, in the flow's precision whatever that of the stored path is."""
        return 0.0 if self.squash is None else self.squash.call_and_ladj(self.end(path).to(like.dtype))[1]


@register_kl(ActionPath, ActionPath)
def _kl_on_scored_paths(p: ActionPath, q: ActionPath) -> Tensor:
    return kl_on_scored(p, q, ActionPath.path_log_prob, ActionPath.rsample_and_path_log_prob)


class PathFlowDistribution(FlowDistribution):
    """What SB3's on-policy algorithms ask of a distribution of actions, asked of whole paths.

    They emit, store and score what they call an action; here it is the path, as in a decision process whose actions
    are paths and whose environment looks at the end alone. So `log_prob` of this class, which SB3 calls by that name,
    is the path's, and `entropy` is a bound.

    :param action_dim: d
    :param noise_layers: K
    :param noise_std: of each, at the start
    :param kwargs: see :class:`FlowDistribution`
    """

    distribution: ActionPath  # type: ignore[assignment]

    def __init__(self, action_dim: int, noise_layers: int = NOISE_LAYERS, noise_std: float = NOISE_STD, **kwargs: Any):
        super().__init__(action_dim, **kwargs)
        self.noise_layers, self.noise_std = noise_layers, noise_std
        self.path_dim = (noise_layers + 1) * action_dim

    def proba_distribution_net(self, latent_dim: int) -> PathFlow:
        noise: Any = dict(noise_layers=self.noise_layers, noise_std=self.noise_std)
        return PathFlow(self.action_dim, latent_dim, self.flow, **noise, **self.flow_kwargs)

    def proba_distribution(self, paths: PathDistribution) -> PathFlowDistribution:  # type: ignore[override]
        bound = copy.copy(self)
        bound.distribution = ActionPath(paths, squash=self.squash)
        return bound

    def log_prob(self, actions: Tensor) -> Tensor:
        """log-density of paths, shape ``(batch, (K + 1) d)``, SB3's name for it; ``(batch,)``."""
        return self.distribution.path_log_prob(actions.reshape(-1, self.path_dim))

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        return self.distribution.rsample_and_path_log_prob()

    def entropy(self, n_samples: int = 1) -> Tensor:
        """The bound of :meth:`ActionPath.entropy_bound`, by SB3's name."""
        return self.distribution.entropy_bound(n_samples)

    def mode(self) -> Tensor:
        return self.distribution.center()
