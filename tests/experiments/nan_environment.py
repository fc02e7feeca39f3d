"""An environment whose observations turn into NaN after a while; importing this registers it."""

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv

BREAKS_AFTER = 120


class NanPendulum(PendulumEnv):
    """Pendulum that gives NaN from its 120th step on."""

    steps_taken = 0

    def step(self, action):
        observation, *rest = super().step(action)
        self.steps_taken += 1
        if self.steps_taken > BREAKS_AFTER:
            observation = np.full_like(observation, np.nan)
        return observation, *rest


gym.register("NanPendulum-v0", entry_point=NanPendulum, max_episode_steps=200)
