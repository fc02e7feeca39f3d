"""One view of the action density of any Stable-Baselines3 policy with continuous actions, flow or Gaussian.

Everything is said in the environment's own actions, so that a flow policy and its Gaussian baseline can be compared.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor
from torch.nn import Parameter

from flowrl.policies.action_box import action_box, precision_of
from flowrl.policies.action_distribution import SATURATED, FlowDistribution


class ActionDensity:
    """Mixin of the flow policies: `log_prob(obs, env_action)` and `entropy(obs)` over the environment's action box."""

    action_space: spaces.Box
    observation_space: spaces.Space
    features_extractor_class: type[BaseFeaturesExtractor]
    squash_output: bool
    get_distribution: Callable[[PyTorchObs], FlowDistribution]
    parameters: Callable[[], Iterator[Parameter]]
    has_log_prob: bool = True
    """Whether an action's log-prob is known: not where there is noise between a flow's layers."""

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """SB3's check of ``"MlpPolicy"`` and ``"CnnPolicy"`` for the policies of this library."""
        if isinstance(self.observation_space, spaces.Dict) and self.features_extractor_class in (
            FlattenExtractor,
            NatureCNN,
        ):
            raise ValueError(
                "You must use `FlowMultiInputPolicy` when working with dict observation space, "
                f"not {type(self).__name__}"
            )
        return super().make_features_extractor()  # type: ignore[misc]

    def log_prob(self, obs: PyTorchObs, env_action: Tensor) -> Tensor:
        """Exact log-density of environment actions; its exponential integrates to one over the action space's box.

        :param obs: preprocessed observations (``policy.obs_to_tensor(obs)[0]``), batch first
        :param env_action: actions in the environment's units, shape ``(batch, *action_shape)``; one on the box's edge
            counts as the nearest float inside
        :return: shape ``(batch,)``, nats; -inf outside of the box onto which actions are squashed
        """
        distribution = self.get_distribution(obs)
        of_policy = next(self.parameters())  # its dtype and device
        action = env_action.reshape(env_action.shape[0], -1).to(of_policy.device)
        if not action.is_floating_point():
            action = action.to(of_policy)
        if not self.squash_output:
            return distribution.log_prob(action.to(of_policy))
        box = self.action_space
        # In the action's own precision, to which it may have been rounded on an edge
        lowest, highest = (torch.from_numpy(edge.flatten()).to(action) for edge in (box.low, box.high))
        outside = ((action < lowest) | (action > highest)).any(-1) & ~action.isnan().any(-1)
        # Where an action lies in its box is found in the box's precision, which may be more than the policy's
        low, half = action_box(box, action.to(precision_of(box, of_policy)))
        action = ((action.to(low) - low) / half - 1).clamp(-1, 1).to(of_policy)
        if distribution.pre_squash:
            action = distribution.distribution.squash.inverse_and_ladj(action)[0]  # type: ignore[union-attr]
        return (distribution.log_prob(action) - half.log().sum().to(of_policy)).masked_fill(outside, -torch.inf)

    def entropy(self, obs: PyTorchObs, n_samples: int = 16) -> Tensor:
        """Monte-Carlo estimate of the differential entropy of the environment's action, differentiable.

        :param obs: preprocessed observations, batch first
        :param n_samples: draws per state
        :return: shape ``(batch,)``, nats
        """
        entropy = self.get_distribution(obs).entropy(n_samples)
        return entropy + action_box(self.action_space, entropy)[1].log().sum() if self.squash_output else entropy


def has_density(policy: BasePolicy) -> bool:
    """
    Whether :func:`action_log_prob` understands a policy.

    :param policy: any policy
    :return: True for flow policies without noise layers and for SB3's diagonal Gaussians
    """
    if not isinstance(policy.action_space, spaces.Box) or hasattr(policy, "lstm_actor"):
        return False  # sb3-contrib's recurrent policies ask for their states, too
    if isinstance(policy, ActionDensity):
        return policy.has_log_prob
    if isinstance(policy, ActorCriticPolicy):
        return isinstance(policy.action_dist, DiagGaussianDistribution)
    return isinstance(getattr(getattr(policy, "actor", None), "action_dist", None), DiagGaussianDistribution)


def has_diagnostics(policy: BasePolicy) -> bool:
    """
    Whether :func:`diagnose` and :func:`sample_actions` understand a policy.

    :param policy: any policy
    :return: True for flow policies, with noise layers or without, and for SB3's diagonal Gaussians
    """
    return isinstance(policy, ActionDensity) or has_density(policy)


def action_log_prob(policy: BasePolicy, obs: PyTorchObs, actions: Tensor) -> Tensor:
    """
    Log-density of environment actions. (PPO's Gaussian is that of the action before SB3 clips it to the box.)

    :param policy: a flow policy, or one of SB3's with a diagonal Gaussian
    :param obs: preprocessed observations, batch first; one alone goes with all actions
    :param actions: environment actions, shape ``(batch, d)``
    :return: shape ``(batch,)``
    """
    if isinstance(policy, ActionDensity):
        return policy.log_prob(obs, actions.reshape(-1, *policy.action_space.shape))
    if isinstance(policy, ActorCriticPolicy):
        return policy.get_distribution(obs).log_prob(actions)
    mean, log_std, _ = policy.actor.get_action_dist_params(obs)  # type: ignore[operator, union-attr]
    gaussian = policy.actor.action_dist.proba_distribution(mean, log_std)  # type: ignore[operator, union-attr]
    low, half = action_box(policy.action_space, actions)  # type: ignore[arg-type]
    return gaussian.log_prob((actions - low) / half - 1) - half.log().sum()


def sample_actions(policy: BasePolicy, obs: PyTorchObs) -> Tensor:
    """
    One action per state, as the environment gets it.

    :param policy: any policy with a ``Box`` of actions
    :param obs: preprocessed observations, batch first
    :return: shape ``(batch, d)``
    """
    actions = policy._predict(obs, deterministic=False).cpu().numpy().reshape(-1, *policy.action_space.shape)  # type: ignore[misc]
    if policy.squash_output:
        actions = policy.unscale_action(actions)
    box = policy.action_space
    assert isinstance(box, spaces.Box)
    actions = np.clip(actions, box.low, box.high)
    return torch.as_tensor(actions.reshape(len(actions), -1), device=policy.device)


@torch.no_grad()
def diagnose(policy: BasePolicy, obs: PyTorchObs) -> dict[str, float]:
    """
    What the curves under ``flow/`` show: entropy, saturated fraction, range of the log-det.

    Densities are those on [-1, 1], as SAC's target entropy takes them. A Gaussian has no flow and no log-det; a flow
    with noise layers has a lower bound of the entropy, ``entropy_bound``.

    :param policy: a policy that :func:`has_diagnostics`
    :param obs: preprocessed observations, batch first
    :return: name to value
    """
    low, half = action_box(policy.action_space, next(policy.parameters()))  # type: ignore[arg-type]
    center = low + half
    if isinstance(policy, ActionDensity):
        distribution = policy.get_distribution(obs)
        return distribution.diagnostics() if distribution.squash else distribution.diagnostics(center, half)
    if isinstance(policy, ActorCriticPolicy):
        actions = policy.get_distribution(obs).sample()
        log_prob = policy.get_distribution(obs).log_prob(actions) + half.log().sum()
        actions = (actions - center) / half
    else:
        actions, log_prob = policy.actor.action_log_prob(obs)  # type: ignore[operator, union-attr]
    return {
        "entropy": -log_prob.mean().item(),
        "saturation": (actions.abs() > SATURATED).float().mean().item(),
    }
