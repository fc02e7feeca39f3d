"""An obstacle that one passes on its left or on its right: a point, a disc in its way, and a goal behind the disc.

Demonstrations take either side, and at the start the state does not tell which: their mean runs into the disc.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

RADIUS = 0.65  # of the disc, whose middle is (0, 0)
START, GOAL = np.array([0.0, -1.0]), np.array([0.0, 1.0])
REACH = 0.15  # the goal is reached within this distance
STEP = 0.3  # how far an action of length 1 moves the point
NOISE = 0.05  # standard deviation of the demonstrator's actions
PASS = 0.8  # where the demonstrator passes the middle, left or right
LOOKAHEAD = 0.25  # how far up its path it aims


class Obstacle(gym.Env):
    """
    Move a point past a disc to a goal.

    Observation: position and last velocity, ``(x, y, vx, vy)``. Action: velocity, in [-1, 1]^2. An episode ends at the
    goal (reward 1), in the disc (reward -1), or undecided when the time is up; ``info["is_success"]`` says how.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-10.0, 10.0, (4,))
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        self.position = START + self.np_random.uniform(-0.05, 0.05, 2)
        self.velocity = np.zeros(2)
        return self._observe(), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        before, self.velocity = self.position, np.clip(np.asarray(action, float), -1.0, 1.0)
        self.position = before + STEP * self.velocity
        crashed = distance_to_segment(before, self.position) < RADIUS
        reached = not crashed and bool(np.linalg.norm(self.position - GOAL) < REACH)
        return self._observe(), float(reached) - float(crashed), crashed or reached, False, dict(is_success=reached)

    def _observe(self) -> NDArray[Any]:
        return np.concatenate((self.position, self.velocity)).astype(np.float32)


def distance_to_segment(start: NDArray[Any], end: NDArray[Any]) -> float:
    """Distance of the origin to the way between two points."""
    way = end - start
    along = np.clip(-start @ way / max(way @ way, 1e-12), 0.0, 1.0)
    return float(np.linalg.norm(start + along * way))


class Demonstrator:
    """
    Passes on a side of its choice, a new one in every episode, with some noise in its actions.

    :param seed: of its choices and its noise
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def begin(self) -> None:
        """A new episode."""
        self.side = self.random.choice((-1.0, 1.0))

    def act(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """
        :param observation: the state
        :return: a velocity along the path x = ±PASS cos(pi y / 2)
        """
        y = min(observation[1] + LOOKAHEAD, GOAL[1])
        way = np.array([self.side * PASS * np.cos(np.pi * y / 2), y]) - observation[:2]
        velocity = 0.9 * way / max(np.linalg.norm(way), STEP)
        return np.clip(velocity + self.random.normal(0.0, NOISE, 2), -1.0, 1.0).astype(np.float32)
