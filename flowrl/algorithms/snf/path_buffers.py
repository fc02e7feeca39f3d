"""Rollouts of paths: Stable-Baselines3's buffers with room for what a stochastic flow emits."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.preprocessing import get_action_dim


class PathRolloutMixin:
    """Turns a `RolloutBuffer` (SB3 2.9) into one whose ``actions`` are paths, (K + 1) d numbers a step.

    The rest of it, and of what it hands out, is as it was.

    :param args: as the buffer's
    :param noise_layers: K
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *args: Any,
        noise_layers: int,
        **kwargs: Any,
    ):
        size = (noise_layers + 1) * get_action_dim(action_space)
        dtype: Any = np.result_type(action_space.dtype, np.float32)  # whole numbers are the policy's to refuse
        paths = spaces.Box(-np.inf, np.inf, (size,), dtype)
        super().__init__(buffer_size, observation_space, paths, *args, **kwargs)  # type: ignore[call-arg]


class PathRolloutBuffer(PathRolloutMixin, RolloutBuffer):
    """A rollout of paths."""


class PathDictRolloutBuffer(PathRolloutMixin, DictRolloutBuffer):
    """A rollout of paths in states that are dictionaries."""
