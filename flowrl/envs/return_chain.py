"""A choice, and a chain that leads to a prize: return distributions are known, and those of one branch have two modes.

The safe branch ends with the prize 1. The risky one ends with 3, or with -2 with probability ``risk``. Every step pays
normal noise besides. From place k of a branch of length L there are L - k steps before the one that pays the prize, and

    Z_k = gamma^(L - k) prize + sum_{j=0}^{L-k} gamma^j noise_j,

a mixture of normal distributions, one for each prize, with deviation noise sqrt(sum_j gamma^(2j)). Place 0 is the first
state, where the branch is chosen: Z_0 belongs to a state and an action. By its mean the risky branch is the better one,
1.75 gamma^L against gamma^L with a risk of a quarter; by the mean of its worst quarter (CVaR) the safe one is.
"""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from flowrl.options import between, fraction, whole

SAFE, GAIN, LOSS = 1.0, 3.0, -2.0  # prizes


@dataclass(frozen=True)
class ReturnDistribution:
    """
    A mixture of normal distributions of one deviation.

    :param weights: shape ``(n,)``
    :param means: shape ``(n,)``
    :param std: of each
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    std: float

    @property
    def mean(self) -> float:
        """The expected return."""
        return float(self.weights @ self.means)

    def density(self, returns: ArrayLike) -> NDArray[np.float64]:
        """
        :param returns: shape ``(*,)``
        :return: shape ``(*,)``
        """
        z = self._standardised(returns)
        return np.exp(-0.5 * z**2) @ self.weights / (self.std * math.sqrt(2 * math.pi))

    def cdf(self, returns: ArrayLike) -> NDArray[np.float64]:
        """
        :param returns: shape ``(*,)``
        :return: the probability of a smaller return, shape ``(*,)``
        """
        return torch.special.ndtr(torch.as_tensor(self._standardised(returns))).numpy() @ self.weights

    def quantile(self, levels: ArrayLike) -> NDArray[np.float64]:
        """
        The inverse of :meth:`cdf`, by bisection.

        :param levels: between 0 and 1, shape ``(*,)``
        :return: shape ``(*,)``
        :raises ValueError: for a level that is not between them
        """
        levels = np.asarray(levels, np.float64)
        if not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"levels must be numbers between 0 and 1, got {levels.tolist()}.")
        low = np.full(levels.shape, self.means.min() - 40 * self.std)
        high = np.full(levels.shape, self.means.max() + 40 * self.std)
        for _ in range(64):
            middle = (low + high) / 2
            below = self.cdf(middle) < levels
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2

    def cvar(self, level: float) -> float:
        """
        The mean of the worst returns: E[Z | Z < quantile(level)].

        :param level: which part of them, between 0 and 1
        :return: the mean
        """
        z = self._standardised(self.quantile(level))
        below = torch.special.ndtr(torch.as_tensor(z)).numpy()
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        return float(self.weights @ (self.means * below - self.std * density) / level)

    def _standardised(self, returns: ArrayLike) -> NDArray[np.float64]:
        """From ``(*,)`` to ``(*, n)``."""
        return (np.asarray(returns, np.float64)[..., None] - self.means) / self.std


class ReturnChain(gym.Env):
    """
    Choose the safe branch (action below 0) or the risky one (from 0 on); ``length`` steps later there is a prize.

    The first action alone matters. Observation: the branch, -1 safe, 1 risky and 0 before the choice, and how far along
    it, from 0 to 1.

    :param length: L, steps from the choice to the prize
    :param noise: standard deviation of what every step pays besides
    :param risk: probability of the risky branch's loss
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, length: int = 3, noise: float = 0.2, risk: float = 0.25) -> None:
        self.length = whole("length", length, 1)
        self.noise, self.risk = between("noise", noise, 0), between("risk", risk, 0, 1)
        self.observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        self.branch, self.place = 0, 0
        return self._observe(), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        if self.place == 0:
            self.branch = -1 if np.asarray(action).item() < 0 else 1
        reward = self.np_random.normal(0.0, self.noise)
        over = self.place == self.length
        if over:
            prizes, weights = self._prizes("safe" if self.branch < 0 else "risky")
            reward += self.np_random.choice(prizes, p=weights)
        self.place += not over
        return self._observe(), float(reward), over, False, {}

    def _observe(self) -> NDArray[np.float32]:
        return np.array([self.branch, self.place / self.length], np.float32)

    def _prizes(self, branch: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A branch's prizes and their probabilities."""
        if branch == "safe":
            return np.array([SAFE]), np.array([1.0])
        return np.array([LOSS, GAIN]), np.array([self.risk, 1 - self.risk])

    def optimum(self, gamma: float = 0.99) -> dict[str, list[ReturnDistribution]]:
        """
        The distribution of the discounted return, in every state of both branches.

        :param gamma: discount
        :return: for ``"safe"`` and ``"risky"`` the distributions at the places 0 (its choice in the first state) to L
        """
        fraction("gamma", gamma)
        distributions: dict[str, list[ReturnDistribution]] = {}
        for branch in ("safe", "risky"):
            prizes, weights = self._prizes(branch)
            distributions[branch] = []
            for steps in range(self.length, -1, -1):  # to the one that pays the prize
                std = self.noise * math.sqrt(sum(gamma ** (2 * j) for j in range(steps + 1)))
                distributions[branch].append(ReturnDistribution(weights, gamma**steps * prizes, std))
        return distributions
