"""Policies for PPO, A2C and TRPO whose flow has noise layers: they emit, store and score whole paths.

The environment gets a path's end, through `unscale_action`. :class:`flowrl.algorithms.SNF` gives the rollout's buffer
the room for it.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from flowrl.flows.path import NOISE_LAYERS, NOISE_STD, check_noise
from flowrl.flows.recipes import DEFAULT_FLOW
from flowrl.policies.action_box import action_box, into_box
from flowrl.policies.action_distribution import FlowDistribution, check_finite
from flowrl.policies.action_path import PathFlowDistribution
from flowrl.policies.on_policy import FlowActorCriticMixin


class StochasticFlowActorCriticMixin(FlowActorCriticMixin):
    """A flow policy with noise between its flow's layers; without any it is its parent, to the bit.

    Where SB3 (2.9, common/policies.py) says action, there is the path, shape ``(batch, (K + 1) d)``: in what `forward`
    returns and `evaluate_actions` takes. `predict` returns the environment's actions.

    :param noise_layers: K, how many; 0: none
    :param noise_std: standard deviation of the noise at the start, in (0, 1); the state gives it afterwards
    :raises ValueError: see :class:`FlowActorCriticMixin` and :class:`flowrl.flows.path.PathFlow`; with noise layers,
        for another ``deterministic_action`` than ``"mean"``
    """

    action_dist: FlowDistribution
    default_flow = DEFAULT_FLOW  # a policy of one mode needs no noise

    def __init__(self, *args: Any, noise_layers: int = NOISE_LAYERS, noise_std: float = NOISE_STD, **kwargs: Any):
        self.noise_layers, self.noise_std = noise_layers, noise_std
        self.has_log_prob = noise_layers == 0
        if noise_layers != 0:
            check_noise(noise_layers, noise_std)
            way = kwargs.get("deterministic_action", "mean")
            if way != "mean":
                raise ValueError(
                    f"deterministic_action={way!r}: with noise layers the deterministic action is that of no noise at "
                    'all, since nobody knows which is the densest; use "mean", or noise_layers=0.'
                )
        super().__init__(*args, **kwargs)
        if not self.has_log_prob:
            self._squash_output = True  # SB3 then has unscale_action make the environment's action, squashed or not

    def _make_action_dist(self) -> FlowDistribution:
        if self.has_log_prob:
            return super()._make_action_dist()
        return PathFlowDistribution(
            get_action_dim(self.action_space),
            noise_layers=self.noise_layers,
            noise_std=self.noise_std,
            squash=self._squash,
            pre_squash=True,
            **self.flow_spec,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | dict(noise_layers=self.noise_layers, noise_std=self.noise_std)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Paths, values and the paths' log-densities; as `ActorCriticPolicy.forward` (SB3 2.9), in one pass less."""
        if self.has_log_prob:
            return super().forward(obs, deterministic)
        features = self.extract_features(obs)
        pi_features, vf_features = (features, features) if self.share_features_extractor else features
        values = self.value_net(self.mlp_extractor.forward_critic(vf_features))
        distribution = self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(pi_features))
        if deterministic:
            paths = distribution.get_actions(deterministic=True)
            return paths, values, distribution.log_prob(paths)
        paths, log_prob = distribution.rsample_and_log_prob()
        return check_finite(paths), values, log_prob

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._end(super()._predict(observation, deterministic))

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Paths, shape ``(batch, (K + 1) d)``, or their ends, ``(batch, *action_shape)`` -> environment actions."""
        if self.has_log_prob:
            return super().unscale_action(scaled_action)
        shape = self.action_space.shape
        u = self._end(scaled_action).reshape(-1, *shape) if scaled_action.shape[1:] != shape else scaled_action
        return super().unscale_action(u) if self._squash else into_box(u, self.action_space)

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Environment action -> the end u of its paths."""
        return super().scale_action(action) if self._squash else action

    def _end(self, path: Any) -> Any:
        return path[..., -get_action_dim(self.action_space) :]

    def path_log_prob(self, obs: PyTorchObs, path: Tensor) -> Tensor:
        """Exact log-density of paths, the action at their end measured on [-1, 1] where it is squashed.

        :param obs: preprocessed observations (``policy.obs_to_tensor(obs)[0]``), batch first
        :param path: as `forward` emits them, shape ``(batch, (K + 1) d)``; without noise layers u, shape ``(batch, d)``
        :return: shape ``(batch,)``, nats
        """
        return self.get_distribution(obs).log_prob(path)

    def entropy_bound(self, obs: PyTorchObs, n_samples: int = 16) -> Tensor:
        """A lower bound of the differential entropy of the environment's action, differentiable; without noise layers
        the entropy itself. See :meth:`flowrl.policies.action_path.ActionPath.entropy_bound`.

        :param obs: preprocessed observations, batch first
        :param n_samples: paths per state
        :return: an unbiased estimate of the bound, shape ``(batch,)``, nats
        """
        bound = self.get_distribution(obs).entropy(n_samples)
        return bound + action_box(self.action_space, bound)[1].log().sum() if self._squash else bound

    def log_prob(self, obs: PyTorchObs, env_action: Tensor) -> Tensor:
        if not self.has_log_prob:
            raise ValueError(
                f"This policy has noise_layers={self.noise_layers}: the density of an action is an integral over all "
                "paths that lead to it, and nobody knows it. path_log_prob(obs, path) is exact, of a path that forward "
                "emitted; with noise_layers=0 log_prob is, too."
            )
        return super().log_prob(obs, env_action)

    def entropy(self, obs: PyTorchObs, n_samples: int = 16) -> Tensor:
        if not self.has_log_prob:
            raise ValueError(
                f"This policy has noise_layers={self.noise_layers}: of its entropy a bound is known, "
                "entropy_bound(obs, n_samples)."
            )
        return super().entropy(obs, n_samples)


class StochasticFlowActorCriticPolicy(StochasticFlowActorCriticMixin, ActorCriticPolicy):
    """PPO's, A2C's and TRPO's policy with a flow that may have noise layers."""


class StochasticFlowActorCriticCnnPolicy(StochasticFlowActorCriticMixin, ActorCriticCnnPolicy):
    """PPO's, A2C's and TRPO's image policy with a flow that may have noise layers."""


class StochasticFlowMultiInputActorCriticPolicy(StochasticFlowActorCriticMixin, MultiInputActorCriticPolicy):
    """PPO's, A2C's and TRPO's policy for dictionaries of observations, with a flow that may have noise layers."""
