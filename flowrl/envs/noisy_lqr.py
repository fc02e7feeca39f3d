"""A linear-quadratic regulator with noise: the soft value and the best policy in closed form, in every state.

From a state x to the next, y = A x + B a + w with w ~ N(0, W); reward -(xᵀQx + aᵀRa); discount gamma, temperature
alpha. With the value V(x) = -xᵀPx + c the soft Q-function is quadratic in the action,

    Q(x, a) = -xᵀQx - aᵀRa + gamma E[V(y)]
            = -xᵀPx - (a + Kx)ᵀM(a + Kx) + gamma (c - tr PW),
    M = R + gamma BᵀPB,    K = gamma M^-1 BᵀPA,    P = Q + gamma AᵀPA - KᵀMK,

so that the best policy, exp((Q - V) / alpha), is a Gaussian, N(-Kx, alpha/2 M^-1). Its normalisation closes the
recursion, V(x) = alpha log of the integral of exp(Q / alpha) (Haarnoja et al. 2017, eq. 5 and 7):

    c = (alpha/2 log det(pi alpha M^-1) - gamma tr PW) / (1 - gamma).

P, the discrete Riccati equation's fixed point, does not depend on alpha or W. Actions and densities are in [-1, 1]^2,
the units in which the agents' entropies are. The box cuts the Gaussian off, and V falls short of the closed form by
about alpha times the mass beyond the edges: nothing that counts as long as -Kx keeps four deviations from them, as it
does with the default options.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from flowrl.options import between

A = np.array([[0.9, 0.2], [-0.2, 0.9]])  # turns, and shrinks by 0.92: whatever a policy does, states stay bounded
B = np.array([[2.0, 0.0], [0.8, 2.0]])
Q = np.eye(2)
R = np.array([[3.0, 1.5], [1.5, 3.0]])  # M is not diagonal: neither is the best policy's covariance
BOUND = 50.0  # of states; none comes so far, since |B a| / (1 - 0.92) is less


@dataclass(frozen=True)
class SoftRegulator:
    """
    The best policy at one temperature, and its value.

    :param alpha: temperature
    :param cost: P, shape ``(2, 2)``
    :param gain: K, shape ``(2, 2)``
    :param constant: c
    :param covariance: of the policy, alpha/2 M^-1, shape ``(2, 2)``
    """

    alpha: float
    cost: NDArray[np.float64]
    gain: NDArray[np.float64]
    constant: float
    covariance: NDArray[np.float64]

    def value(self, states: ArrayLike) -> NDArray[np.float64]:
        """
        The soft value, V(x) = -xᵀPx + c.

        :param states: shape ``(*, 2)``
        :return: shape ``(*,)``
        """
        states = np.asarray(states, np.float64)
        return self.constant - ((states @ self.cost) * states).sum(-1)

    def mean(self, states: ArrayLike) -> NDArray[np.float64]:
        """
        The policy's mean, -Kx.

        :param states: shape ``(*, 2)``
        :return: shape ``(*, 2)``
        """
        return -np.asarray(states, np.float64) @ self.gain.T

    def log_prob(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float64]:
        """
        The policy's log-density, (Q(x, a) - V(x)) / alpha.

        :param states: shape ``(*, 2)``
        :param actions: shape ``(*, 2)``
        :return: shape ``(*,)``, in nats
        """
        error = np.asarray(actions, np.float64) - self.mean(states)
        quadratic = ((error @ np.linalg.inv(self.covariance)) * error).sum(-1)
        return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * self.covariance)[1])


class NoisyLQR(gym.Env):
    """
    Hold a point near the origin: two coupled states, two actions in [-1, 1].

    An episode never terminates; by registration it is truncated after 200 steps.

    :param noise: standard deviation of each state's noise, W = noise^2 I
    :param spread: standard deviation of the first state, around the origin
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, noise: float = 0.1, spread: float = 0.5) -> None:
        self.noise, self.spread = between("noise", noise, 0), between("spread", spread, 0)
        self.observation_space = spaces.Box(-BOUND, BOUND, (2,))
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        self.state = self.np_random.normal(0.0, self.spread, 2)
        return self._observe(), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        action = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        reward = -(self.state @ Q @ self.state + action @ R @ action)
        self.state = A @ self.state + B @ action + self.np_random.normal(0.0, self.noise, 2)
        return self._observe(), float(reward), False, False, {}

    def _observe(self) -> NDArray[np.float32]:
        return np.clip(self.state, -BOUND, BOUND).astype(np.float32)

    def optimum(self, alpha: float = 0.1, gamma: float = 0.99) -> SoftRegulator:
        """
        The best policy and its soft value, by iterating the Riccati equation to its fixed point.

        :param alpha: temperature
        :param gamma: discount
        :return: both
        """
        between("alpha", alpha, 0)
        between("gamma", gamma, 0, 1)
        cost, last = Q, np.zeros_like(Q)
        while np.abs(cost - last).max() > 1e-14 * np.abs(cost).max():
            curvature = R + gamma * B.T @ cost @ B
            gain = gamma * np.linalg.solve(curvature, B.T @ cost @ A)
            cost, last = Q + gamma * A.T @ cost @ A - gain.T @ curvature @ gain, cost
        covariance = alpha / 2 * np.linalg.inv(curvature)
        log_z = 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
        constant = (alpha * log_z - gamma * self.noise**2 * np.trace(cost)) / (1 - gamma)
        return SoftRegulator(alpha, cost, gain, float(constant), covariance)
