"""Tiny environments for the tests: fast steps, a known best action, and an error for stray actions."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# An asymmetric box that is not of unit size, in which a mistake of scale or of shift shows.
LOW, HIGH = (-2.0, 0.0), (3.0, 10.0)


class Aim(gym.Env):
    """Reward: minus the squared distance, in half-widths of the box, to a point that the observation tells.

    It refuses actions outside its box and NaNs, as a real simulator would break on them.

    :param low: lower edges of the action box
    :param high: upper edges
    :param observation: ``"vector"``, ``"dict"`` (of two vectors) or ``"image"``
    :param horizon: steps in an episode; 1 makes it a contextual bandit
    :param reward: of the action in [-1, 1] and the state, in place of the default
    """

    def __init__(
        self,
        low: Any = LOW,
        high: Any = HIGH,
        observation: str = "vector",
        horizon: int = 20,
        reward: Callable[[np.ndarray, np.ndarray], float] | None = None,
    ):
        self.action_space = spaces.Box(np.float32(low), np.float32(high), np.shape(low))
        vector = spaces.Box(-1.0, 1.0, (3,))
        self.observation_space = {
            "vector": vector,
            "dict": spaces.Dict(state=vector, time=spaces.Box(0.0, 1.0, (1,))),
            "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
        }[observation]
        self.observation = observation
        self.horizon = horizon
        self.reward = reward or (lambda action, state: -float(np.mean((action - 0.8 * state[: action.size]) ** 2)))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), f"{action} is outside {self.action_space}"
        box = self.action_space
        scaled = 2 * (action - box.low) / (box.high - box.low) - 1 if box.is_bounded() else action
        reward = self.reward(scaled.flatten(), self.state)
        self.time += 1
        return self._observe(), reward, self.time == self.horizon, False, {}

    def _observe(self) -> Any:
        self.state = self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)
        if self.observation == "dict":
            return {"state": self.state, "time": np.float32([self.time / self.horizon])}
        if self.observation == "image":
            pixels = np.repeat((127.5 * (self.state + 1)).astype(np.uint8), 12)
            return np.ascontiguousarray(np.broadcast_to(pixels[:, None, None], (36, 36, 1)))
        return self.state


class ReachGoal(gym.Env):
    """Move a point on the unit square to a goal: the sparse-reward form that hindsight replay is for."""

    def __init__(self) -> None:
        point = spaces.Box(-1.0, 1.0, (2,))
        self.observation_space = spaces.Dict(observation=point, achieved_goal=point, desired_goal=point)
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.time = 0
        self.point = np.zeros(2, np.float32)
        self.goal = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.point = np.clip(self.point + 0.2 * action, -1.0, 1.0).astype(np.float32)
        self.time += 1
        reward = float(self.compute_reward(self.point, self.goal, {}))
        return self._observe(), reward, False, self.time == 10, {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        """As gymnasium-robotics' goal environments, batched: 0 near the goal, else -1."""
        return -(np.linalg.norm(achieved - desired, axis=-1) > 0.3).astype(np.float32)

    def _observe(self) -> dict[str, np.ndarray]:
        return {"observation": self.point, "achieved_goal": self.point, "desired_goal": self.goal}


class Spaces(gym.Env):
    """Samples of any space of observations, for actions of any other, which it refuses outside of it.

    :param observations: the space of observations
    :param actions: the space of actions, two numbers in [-1, 1] by default
    :param horizon: steps in an episode
    """

    def __init__(self, observations: gym.Space, actions: gym.Space | None = None, horizon: int = 10):
        self.observation_space = observations
        self.action_space = spaces.Box(-1.0, 1.0, (2,)) if actions is None else actions
        self.horizon = horizon

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        self.time += 1
        reward = -float(np.mean(np.abs(action)))
        return self.observation_space.sample(), reward, False, self.time == self.horizon, {}
