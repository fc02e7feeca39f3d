"""One step, and as reward the log-density of a mixture: an environment whose best policy has any number of modes.

The best policy at temperature alpha maximises E[r] + alpha H, r = log p*, H the entropy in nats on the box [-1, 1]^d:

    pi(a) = exp(r(a) / alpha) / Z = p*(a)^(1/alpha) / Z,
    V = alpha log Z = alpha log of the integral of p*(a)^(1/alpha),

since E[r] + alpha H = V - alpha KL(policy | pi) for every policy (Haarnoja et al. 2017, eq. 5 and 6). At alpha = 1 the
best policy is p* itself and V = 0.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowrl.envs.quadrature import grid
from flowrl.options import between, whole

BOX = 0.8  # the centres lie in [-BOX, BOX]^d
CANDIDATES = 100  # of which the one farthest from the other centres becomes the next one
LARGEST_SCALE = 0.12
QUADRATURE = 400  # points a side, at least; more where a mode's deviation would be less than a cell's side
NODES, MOST_NODES = 101, 2_001  # of the trapezoid rule in each dimension
LARGEST_GRID, CHUNK = 1_000_000, 200_000  # points, in all and at once


class EnergyBandit(gym.Env):
    """
    A single observation, an action in [-1, 1]^d, the reward log p*(a), and the episode is over.

    p* is a mixture of ``n_modes`` Gaussians of equal weight and deviation ``scale`` in every dimension, each cut off at
    the box and normalised there, and of a uniform density of weight ``background``:

        p*(a) = background / 2^d + (1 - background) / n sum_k prod_i N(a_i; c_ki, scale^2) / Z_ki,
        Z_ki = Phi((1 - c_ki) / scale) - Phi((-1 - c_ki) / scale).

    The background bounds the reward from below, by log(background / 2^d): without it an action between two modes would
    cost hundreds, a critic would learn little else, and no temperature would matter.

    :param n_modes: how many
    :param dimensions: d
    :param seed: of the centres, which an episode's seed leaves where they are. Every next centre is the one of 100
        random candidates that is farthest from those before it (Mitchell 1991, best candidate)
    :param scale: of a mode; by default a quarter of the smallest distance between two centres, at most 0.12
    :param background: weight of the uniform density
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        n_modes: int = 4,
        dimensions: int = 2,
        seed: int = 0,
        scale: float | None = None,
        background: float = 0.01,
    ) -> None:
        whole("n_modes", n_modes, 1)
        self.dimensions = whole("dimensions", dimensions, 1)
        self.background = between("background", background, 0, 1)
        self.centers = _spread(n_modes, dimensions, np.random.default_rng(whole("seed", seed, 0)))
        self.scale = _default_scale(self.centers) if scale is None else between("scale", scale, 0)
        self.observation_space = spaces.Box(-1.0, 1.0, (1,))
        self.action_space = spaces.Box(-1.0, 1.0, (dimensions,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        clipped = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        return np.zeros(1, np.float32), float(self.log_density(clipped)), True, False, {}

    def log_density(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """
        The reward.

        :param actions: in the box, shape ``(*, d)``
        :return: log p*, shape ``(*,)``, in nats
        """
        parts = self._components(torch.as_tensor(np.asarray(actions, np.float64)))  # (*, d, n)
        # By logarithms: densities of some hundred dimensions overflow, and 2^-d underflows
        log_background, log_rest = torch.tensor([self.background, 1 - self.background], dtype=torch.float64).log()
        log_modes = parts.sum(-2).logsumexp(-1) - math.log(len(self.centers))
        return torch.logaddexp(log_background - self.dimensions * math.log(2), log_rest + log_modes).numpy()

    def optimum(self, alpha: float = 1.0) -> float:
        """
        The soft value alpha log of the integral of p*^(1/alpha): the most that E[r] + alpha H can be.

        :param alpha: temperature
        :return: the value; 0 at alpha = 1 in any number of dimensions, by quadrature else
        :raises ValueError: for more than two dimensions and another alpha, and for modes too narrow for quadrature
        """
        if between("alpha", alpha, 0) == 1:
            return 0.0
        if self.dimensions > 2:
            raise ValueError(
                f"the soft value in {self.dimensions} dimensions is known at alpha=1 alone, got alpha={alpha}; "
                "quadrature takes at most 2."
            )
        actions, cell = grid(self._points(alpha), self.dimensions)
        parts = np.array_split(actions, math.ceil(len(actions) / CHUNK))
        energies = torch.as_tensor(np.concatenate([self.log_density(part) for part in parts]) / alpha)
        return alpha * (torch.logsumexp(energies, 0).item() + math.log(cell))

    def _points(self, alpha: float) -> int:
        """Cells a side, none of them longer than the deviation of a mode of p*^(1/alpha)."""
        deviation = self.scale * min(1.0, math.sqrt(alpha))
        points = max(QUADRATURE, math.ceil(2 / deviation))
        if points**self.dimensions > LARGEST_GRID:
            raise ValueError(
                f"modes of scale={self.scale:g} are too narrow for quadrature at alpha={alpha:g}: their deviation "
                f"there, {deviation:g}, must be at least {2 * LARGEST_GRID ** (-1 / self.dimensions):g}."
            )
        return points

    def best_log_prob(self, actions: NDArray[Any], alpha: float = 1.0) -> NDArray[np.float64]:
        """
        Log-density of the best policy, (r(a) - V) / alpha.

        :param actions: in the box, shape ``(*, d)``
        :param alpha: temperature
        :return: shape ``(*,)``, in nats
        :raises ValueError: as :meth:`optimum`
        """
        return (self.log_density(actions) - self.optimum(alpha)) / alpha

    def gaussian_optimum(self, alpha: float = 1.0) -> float:
        """
        The most that E[r] + alpha H is for a = tanh(u), u a diagonal Gaussian: SAC's policy in the same task.

        E[r] is integrated by the trapezoid rule in u, and maximised over mean and deviation by gradient ascent from
        every centre and from the middle, narrow and wide in each dimension; soon the best few alone go on.

        :param alpha: temperature
        :return: the value
        :raises ValueError: for other than two dimensions
        """
        between("alpha", alpha, 0)
        if self.dimensions != 2:
            raise ValueError(f"gaussian_optimum integrates over 2 dimensions, this environment has {self.dimensions}.")
        middles = torch.as_tensor(np.concatenate((self.centers, np.zeros((1, 2)))))
        narrow = min(0.2, 4 * self.scale)  # from 0.2 the ascent would not come down to a mode that is much narrower
        shapes = torch.cartesian_prod(*[torch.tensor([narrow, 0.8], dtype=torch.float64).log()] * 2)
        mean, log_std = middles.atanh().repeat_interleave(len(shapes), 0), shapes.repeat(len(middles), 1)
        for steps in (20, 150):
            values, mean, log_std = self._ascend(mean, log_std, alpha, steps)
            best = values.argsort(descending=True)[:4]
            mean, log_std = mean[best], log_std[best]
        nodes = min(MOST_NODES, max(NODES, math.ceil(5 / self.scale)))  # which narrow modes do not fall between
        return self._gaussian_value(mean, log_std, alpha, nodes).max().item()

    def _ascend(self, mean: Tensor, log_std: Tensor, alpha: float, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Better Gaussians from given ones, ``(batch, 2)`` each: their values, means and log-deviations."""
        mean, log_std = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
        # Adam moves by its rate whatever the slope: a mean may not leave a narrow mode with its first step
        groups: list[dict[str, Any]] = [dict(params=[mean], lr=min(0.05, self.scale)), dict(params=[log_std])]
        optimizer = torch.optim.Adam(groups, lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            (-self._gaussian_value(mean, log_std, alpha).sum()).backward()
            optimizer.step()
        mean, log_std = mean.detach(), log_std.detach()
        return self._gaussian_value(mean, log_std, alpha), mean, log_std

    def _gaussian_value(self, mean: Tensor, log_std: Tensor, alpha: float, nodes: int = NODES) -> Tensor:
        """E[r] + alpha H for tanh-Gaussians, ``(batch, 2)`` each, shape ``(batch,)``."""
        noise = torch.linspace(-5, 5, nodes, dtype=torch.float64)
        weight = torch.softmax(-noise.square() / 2, 0)
        u = mean[..., None] + log_std.exp()[..., None] * noise  # (batch, 2, points)
        first, second = self._components(u.tanh().movedim(-2, -1)).exp().unbind(-2)  # (batch, points, n) each
        # A product of two dimensions is one matrix product over the modes: (points, n) times (n, points).
        # Not by logarithms: in two dimensions these are finite, and of a density of 0 they would have no gradient.
        modes = first @ second.mT / len(self.centers)
        reward = (self.background / 2**self.dimensions + (1 - self.background) * modes).log()
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # of tanh
        entropy = (log_std + 0.5 * math.log(2 * math.pi * math.e) + log_slope @ weight).sum(-1)
        return reward @ weight @ weight + alpha * entropy

    def _components(self, actions: Tensor) -> Tensor:
        """Log-densities of the modes in each dimension, from ``(*, d)`` to ``(*, d, n)``."""
        centers = torch.as_tensor(self.centers.T)  # (d, n)
        ends = ((sign - centers) / self.scale for sign in (1, -1))
        upper, lower = (torch.special.ndtr(end) for end in ends)
        log_z = (upper - lower).log() + math.log(self.scale * math.sqrt(2 * math.pi))
        return -0.5 * ((actions[..., None] - centers) / self.scale).square() - log_z


def _spread(n: int, dimensions: int, random: np.random.Generator) -> NDArray[np.float64]:
    """``n`` random points, far from one another."""
    centers = random.uniform(-BOX, BOX, (1, dimensions))
    while len(centers) < n:
        candidates = random.uniform(-BOX, BOX, (CANDIDATES, dimensions))
        distances = np.linalg.norm(candidates[:, None] - centers, axis=-1).min(1)
        centers = np.concatenate((centers, candidates[[distances.argmax()]]))
    return centers


def _default_scale(centers: NDArray[np.float64]) -> float:
    distances = np.linalg.norm(centers[:, None] - centers, axis=-1)[~np.eye(len(centers), dtype=bool)]
    return float(min(LARGEST_SCALE, distances.min(initial=math.inf) / 4))
