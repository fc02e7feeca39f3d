"""Hierarchy: a frozen flow policy as the lower level of another agent, which acts by the noise that the flow bends.

Haarnoja et al. 2018, "Latent Space Policies for Hierarchical Reinforcement Learning": since the flow can be undone,
every action has its noise, and whatever the lower level has learned to avoid is still within the higher one's reach.
"""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from flowrl.policies.density import ActionDensity


class LatentPolicy(gym.Wrapper):
    """
    An environment whose actions are a policy's noise: z becomes the action T(z | s) of the state in which it is chosen.

    Under z ~ N(0, I) it is acted in as the policy acts; z = 0 is its deterministic action.

    :param env: that the policy was trained in, or one with the same observations and actions
    :param policy: a flow policy, or a model with one; its weights are not moved, and it is used as it is at each step
    :param bound: of each z, in deviations: the image of the box is all but a thousandth of the policy's actions, at 4
    :raises ValueError: if the policy has no noise of its own, or other spaces than the environment
    """

    def __init__(self, env: gym.Env, policy: BasePolicy | BaseAlgorithm, bound: float = 4.0):
        super().__init__(env)
        policy = policy.policy if isinstance(policy, BaseAlgorithm) else policy
        if not isinstance(policy, ActionDensity) or not policy.has_log_prob:
            raise ValueError(f"latent_policy needs a flow policy without noise layers, got {type(policy).__name__}.")
        for name in ("observation_space", "action_space"):
            ours, theirs = getattr(env, name), getattr(policy, name)
            if ours != theirs:
                raise ValueError(f"The policy's {name} is {theirs}, the environment's {ours}: they must be the same.")
        self.policy: Any = policy
        self._observation: Any = None
        d = int(np.prod(policy.action_space.shape))
        self.action_space = spaces.Box(-bound, bound, (d,), np.float32)
        self._noise_becomes_action(np.zeros(d), env.observation_space.sample())  # refuses now, not at the first step

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._observation, info = self.env.reset(**kwargs)
        return self._observation, info

    def step(self, action: NDArray[Any]) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._observation is None:
            raise ResetNeeded("Cannot step before the first reset: the action depends on the state.")
        lower = self._noise_becomes_action(action, self._observation)
        self._observation, reward, terminated, truncated, info = self.env.step(lower)
        return self._observation, reward, terminated, truncated, info | dict(lower_action=lower)

    @torch.no_grad()
    def noise_of(self, action: NDArray[Any], observation: Any) -> NDArray[np.float32]:
        """
        :param action: of the environment, inside of its box
        :param observation: the state
        :return: the z that becomes it, shape ``(d,)``; it may lie beyond ``action_space``
        """
        obs, _ = self.policy.obs_to_tensor(observation)
        emitted = self.policy.scale_action(np.asarray(action)[None]) if self.policy.squash_output else action
        emitted = torch.as_tensor(emitted).reshape(1, -1).to(next(self.policy.parameters()))
        return self.policy.get_distribution(obs).distribution.to_noise(emitted)[0].cpu().numpy()

    @torch.no_grad()
    def _noise_becomes_action(self, z: NDArray[Any], observation: Any) -> NDArray[Any]:
        obs, _ = self.policy.obs_to_tensor(observation)
        distribution = self.policy.get_distribution(obs).distribution
        noise = torch.as_tensor(z, dtype=torch.float32).reshape(1, -1).to(next(self.policy.parameters()))
        emitted = distribution.from_noise(noise).cpu().numpy().reshape(self.env.action_space.shape)
        if not self.policy.squash_output:
            box: Any = self.env.action_space
            return np.clip(emitted, box.low, box.high)
        return self.policy.unscale_action(emitted)


latent_policy = LatentPolicy
