"""Policies that emit, and buffers that hold, the action before the tanh, u: nothing is ever inverted through tanh."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from flowrl.policies.action_box import into_box


class PreSquashMixin:
    """Takes a policy's u to the environment's action and back, where SB3's `BasePolicy` only rescales."""

    action_space: spaces.Box
    squash_output: bool

    def unscale_action(self, scaled_action: NDArray[Any]) -> NDArray[Any]:
        """Stored action u -> environment action, through tanh."""
        if not self.squash_output:
            return into_box(scaled_action, self.action_space)
        return into_box(super().unscale_action(np.tanh(scaled_action)), self.action_space)  # type: ignore[misc]

    def scale_action(self, action: NDArray[Any]) -> NDArray[Any]:
        """Environment action -> the u that is stored; one on the box's edge counts as the nearest float inside."""
        if not self.squash_output:
            return action
        scaled = super().scale_action(action)  # type: ignore[misc]
        limit = 1 - np.finfo(scaled.dtype).eps / 2
        return np.arctanh(np.clip(scaled, -limit, limit))
