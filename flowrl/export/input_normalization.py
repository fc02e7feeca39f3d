"""The normalisation of Stable-Baselines3's `VecNormalize`, taken along with a policy that was trained behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from flowrl.export.arguments import as_data, from_data

WHOLE = ""  # the key of an observation that is no dictionary


class InputNormalization:
    """
    Observations less their mean, over their deviation, clipped; as `VecNormalize.normalize_obs` (SB3 2.9), to the bit.

    :param statistics: mean and variance, float64, by the key of a dictionary of observations; by :data:`WHOLE` alone
        where observations are arrays
    :param clip: of what it gives, in deviations
    :param epsilon: added to the variance
    """

    def __init__(self, statistics: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], clip: float, epsilon: float):
        self.statistics, self.clip, self.epsilon = dict(statistics), clip, epsilon

    @classmethod
    def of(cls, env: VecNormalize | None) -> InputNormalization | None:
        """
        :param env: that normalises a policy's observations, or nothing
        :return: its normalisation of observations; None where there is none
        """
        if env is None:
            return None
        parts = env.obs_rms if isinstance(env.obs_rms, dict) else {WHOLE: env.obs_rms}
        statistics = {key: (np.array(part.mean), np.array(part.var)) for key, part in parts.items()}
        return cls(statistics, float(env.clip_obs), float(env.epsilon))

    def __call__(self, observation: Any) -> Any:
        """
        :param observation: of an environment, or a batch of them
        :return: normalised, float32; parts of a dictionary that have no statistics are as they were
        """
        return self._each(self._array, observation)

    def tensors(self, observation: Any) -> Any:
        """
        The same in torch.

        :param observation: a batch, a tensor or a dictionary of them
        """
        return self._each(self._tensor, observation)

    def attach(self, policy: BasePolicy) -> None:
        """
        Let a policy take observations as the environment gives them.

        :param policy: its `obs_to_tensor`, and so `predict`, normalises from now on
        """
        policy.input_normalization = self  # type: ignore[assignment]
        # No bound method, which pickle looks up by the function's name in the policy's class
        policy.obs_to_tensor = partial(_normalize_and_convert, policy)  # type: ignore[method-assign]

    def description(self) -> dict[str, Any]:
        """It in JSON."""
        statistics = {
            key: dict(mean=as_data(mean.tolist(), "mean"), variance=as_data(variance.tolist(), "variance"))
            for key, (mean, variance) in self.statistics.items()
        }
        return dict(clip=as_data(self.clip, "clip"), epsilon=self.epsilon, statistics=statistics)

    @classmethod
    def build(cls, description: Any, space: Any) -> InputNormalization:
        """
        :param description: of :meth:`description`, from anywhere
        :param space: of observations
        :raises ValueError: if it is not one of that space
        """
        try:
            statistics = {}
            for key, part in description["statistics"].items():
                shape = (space if key == WHOLE else space[key]).shape
                mean, variance = (np.array(from_data(part[name]), np.float64) for name in ("mean", "variance"))
                if not mean.shape == variance.shape == shape:
                    raise ValueError(f"its normalisation of observations is of shape {mean.shape}, these of {shape}")
                statistics[key] = (mean, variance)
            return cls(statistics, float(from_data(description["clip"])), float(description["epsilon"]))
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"its normalisation of observations is none ({type(error).__name__}: {error})") from error

    def _each(self, normalize: Callable[[str, Any], Any], observation: Any) -> Any:
        if not isinstance(observation, dict):
            return normalize(WHOLE, observation)
        return {key: normalize(key, part) if key in self.statistics else part for key, part in observation.items()}

    def _array(self, key: str, x: Any) -> NDArray[np.float32]:
        mean, variance = self.statistics[key]
        return np.clip((x - mean) / np.sqrt(variance + self.epsilon), -self.clip, self.clip).astype(np.float32)

    def _tensor(self, key: str, x: Tensor) -> Tensor:
        mean, variance = (torch.as_tensor(part, device=x.device) for part in self.statistics[key])
        return ((x.double() - mean) / (variance + self.epsilon).sqrt()).clamp(-self.clip, self.clip).float()


def _normalize_and_convert(policy: Any, observation: Any) -> Any:
    return type(policy).obs_to_tensor(policy, policy.input_normalization(observation))
