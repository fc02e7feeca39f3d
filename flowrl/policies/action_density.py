"""What every flow policy offers beside SB3's interface: exact log-prob and entropy in the environment's own actions."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor
from torch.nn import Parameter

from flowrl.distributions import FlowDistribution
from flowrl.recipes import DEFAULT_FLOW, AnyFlow, find_flow


class ActionDensity:
    """Mixin of the flow policies: `log_prob(obs, env_action)` and `entropy(obs)` over the environment's action box."""

    action_space: spaces.Box
    squash_output: bool
    get_distribution: Callable[[PyTorchObs], FlowDistribution]
    parameters: Callable[[], Iterator[Parameter]]

    def log_prob(self, obs: PyTorchObs, env_action: Tensor) -> Tensor:
        """Exact log-density of environment actions; its exponential integrates to one over the action space's box.

        :param obs: preprocessed observations (``policy.obs_to_tensor(obs)[0]``), batch first
        :param env_action: actions in the environment's units, shape ``(batch, *action_shape)``; one on the box's edge
            counts as the nearest float inside
        :return: shape ``(batch,)``, nats
        """
        distribution = self.get_distribution(obs)
        action = env_action.flatten(1).to(next(self.parameters()))  # the policy's dtype and device
        if not self.squash_output:
            return distribution.log_prob(action)
        low, half = action_box(self.action_space, action)
        action = (action - low) / half - 1
        if distribution.pre_squash:
            action = distribution.distribution.squash.inverse_and_ladj(action)[0]  # type: ignore[union-attr]
        return distribution.log_prob(action) - half.log().sum()

    def entropy(self, obs: PyTorchObs, n_samples: int = 16) -> Tensor:
        """Monte-Carlo estimate of the differential entropy of the environment's action, differentiable.

        :param obs: preprocessed observations, batch first
        :param n_samples: draws per state
        :return: shape ``(batch,)``, nats
        """
        entropy = self.get_distribution(obs).entropy(n_samples)
        return entropy + action_box(self.action_space, entropy)[1].log().sum() if self.squash_output else entropy


def action_box(action_space: spaces.Box, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower edge and half-width of a box of actions, each of shape ``(d,)``, with the dtype and device of ``like``."""
    low = torch.as_tensor(action_space.low.flatten(), dtype=like.dtype, device=like.device)
    high = torch.as_tensor(action_space.high.flatten(), dtype=like.dtype, device=like.device)
    return low, (high - low) / 2


def check_flow_arguments(action_space: spaces.Space, use_sde: bool, flow: AnyFlow = DEFAULT_FLOW) -> None:
    """Refuse what a flow policy cannot be, before anything is built.

    :raises ValueError: for gSDE, an action space that is no Box, or an unknown flow
    """
    if use_sde:
        raise ValueError(
            "use_sde=True is not available for flow policies: gSDE replaces the noise whose density the flow computes. "
            "Set use_sde=False."
        )
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"Flow policies need a continuous action space (gymnasium.spaces.Box), got {action_space}; use SB3's "
            '"MlpPolicy" for discrete actions.'
        )
    if isinstance(flow, str):
        find_flow(flow)


def into_box(action: np.ndarray, action_space: spaces.Box) -> np.ndarray:
    """The action itself, or the box's edge where rescaling in float32 has rounded to just beyond it."""
    return np.clip(action, action_space.low, action_space.high)
