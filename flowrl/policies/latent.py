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
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage

from flowrl.policies.density import ActionDensity
from flowrl.policies.vec_normalize import vec_normalize_of


class LatentPolicy(gym.Wrapper):
    """
    An environment whose actions are a policy's noise: z becomes the action T(z | s) of the state in which it is chosen.

    Under z ~ N(0, I) it is acted in as the policy acts; z = 0 is its deterministic action.

    :param env: that the policy was trained in, or one with the same observations and actions
    :param policy: a flow policy, or a model with one, whose `VecNormalize` then normalises the policy's observations;
        its weights are not moved, and it is used as it is at each step
    :param bound: of each z, in deviations: the image of the box is all but a thousandth of the policy's actions, at 4
    :raises ValueError: if the policy has no noise of its own, or other spaces than the environment, and for a
        `VecNormalize` whose observations are not those that the policy sees
    """

    def __init__(self, env: gym.Env, policy: BasePolicy | BaseAlgorithm, bound: float = 4.0):
        super().__init__(env)
        self._normalization = vec_normalize_of(policy) if isinstance(policy, BaseAlgorithm) else None
        policy = policy.policy if isinstance(policy, BaseAlgorithm) else policy
        if not isinstance(policy, ActionDensity) or not policy.has_log_prob:
            raise ValueError(f"latent_policy needs a flow policy without noise layers, got {type(policy).__name__}.")
        pairs = dict(observation_space=_channels_first(env.observation_space), action_space=env.action_space)
        for name, ours in pairs.items():
            if ours != (theirs := getattr(policy, name)):
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
        emitted = self.policy.scale_action(np.asarray(action)[None]) if self.policy.squash_output else action
        emitted = torch.as_tensor(emitted).reshape(1, -1).to(next(self.policy.parameters()))
        return self._distribution(observation).to_noise(emitted)[0].cpu().numpy()

    @torch.no_grad()
    def _noise_becomes_action(self, z: NDArray[Any], observation: Any) -> NDArray[Any]:
        noise = torch.as_tensor(z, dtype=torch.float32).reshape(1, -1).to(next(self.policy.parameters()))
        emitted = self._distribution(observation).from_noise(noise).cpu().numpy().reshape(self.env.action_space.shape)
        if not self.policy.squash_output:
            box: Any = self.env.action_space
            return np.clip(emitted, box.low, box.high)
        return self.policy.unscale_action(emitted)

    def _distribution(self, observation: Any) -> Any:
        """Of actions in one state."""
        self.policy.set_training_mode(False)  # as in `predict`: a model that was just loaded is in training mode
        if self._normalization is not None:
            observation = self._normalization.normalize_obs(observation)
        obs, _ = self.policy.obs_to_tensor(observation)
        return self.policy.get_distribution(obs).distribution


def _channels_first(space: Any) -> spaces.Space:
    """A space of observations as a policy has it, before which SB3 puts an image's channels first."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _channels_first(part) for key, part in space.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


latent_policy = LatentPolicy
