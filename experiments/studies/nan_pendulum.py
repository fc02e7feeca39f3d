"""An environment that breaks: importing this registers it."""

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv


class NanPendulum(PendulumEnv):
    """
    Pendulum that gives NaN after some steps, and from then on.

    :param after: how many
    """

    def __init__(self, after: int = 120) -> None:
        super().__init__()
        self.after, self.steps_taken = after, 0

    def step(self, action: np.ndarray) -> tuple:
        observation, *rest = super().step(action)
        self.steps_taken += 1
        if self.steps_taken > self.after:
            observation = np.full_like(observation, np.nan)
        return observation, *rest


gym.register("NanPendulum-v0", entry_point=f"{__name__}:NanPendulum", max_episode_steps=200)
