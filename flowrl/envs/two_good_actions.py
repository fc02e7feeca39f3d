"""One step, two good actions and a bad mean: an environment whose best policy is known at every temperature."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from flowrl.envs import quadrature
from flowrl.options import between

GRID = 200  # points along each side of the action box for the quadrature
COLDEST = 2e-3  # where that is off by less than 0.01 nats


class TwoGoodActions(gym.Env):
    """
    Pass an obstacle on its left or on its right: a single observation, an action in [-1, 1]^2, and the episode is over.

    The reward is that of :func:`reward`.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,))
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        return np.zeros(1, np.float32), float(reward(torch.as_tensor(action))), True, False, {}


def reward(action: Tensor) -> Tensor:
    """
    Zero at its two best, bent ridges, down to -1 away from them.

    :param action: shape ``(*, 2)``
    :return: shape ``(*,)``
    """
    x, y = action.unbind(-1)
    return (-((x.abs() - 0.65 + 0.5 * y.square()) / 0.2).square()).exp() * (-((y / 0.55) ** 4)).exp() - 1


def best_log_prob(action: Tensor, temperature: float) -> Tensor:
    """
    Log-density of the best policy, exp(r(a) / temperature) / Z: it maximises E[r] + temperature * entropy.

    :param action: shape ``(*, 2)``
    :param temperature: SAC's entropy coefficient
    :return: shape ``(*,)``, in nats; Z is computed by the midpoint rule
    :raises ValueError: for a temperature below `COLDEST`, at which peaks are narrower than cells
    """
    between("temperature", temperature, COLDEST)
    actions, cell = grid()
    log_z = torch.logsumexp(reward(actions) / temperature, 0) + math.log(cell)
    return reward(action) / temperature - log_z


def grid() -> tuple[Tensor, float]:
    """Midpoints of equal cells of the action box, shape ``(GRID^2, 2)``, and the area of a cell."""
    actions, cell = quadrature.grid(GRID)
    return torch.as_tensor(actions, dtype=torch.float32), cell
