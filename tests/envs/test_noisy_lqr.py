"""NoisyLQR: the closed form against the soft Bellman equation by quadrature, and against the environment itself."""

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.noisy_lqr import A, B, NoisyLQR, Q, R
from flowrl.envs.quadrature import grid

OPTIONS = [(0.1, 0.99), (0.1, 0.9), (0.02, 0.95)]


@pytest.mark.parametrize(("alpha", "gamma"), OPTIONS)
def test_the_value_solves_the_soft_bellman_equation_in_the_box(alpha, gamma):
    """V(x) = alpha log of the integral over [-1, 1]^2 of exp((r + gamma E V(x')) / alpha)."""
    env = NoisyLQR(noise=0.2)
    best = env.optimum(alpha, gamma)
    actions, cell = grid()
    # The mean over the noise, by Gauss-Hermite's rule: exact for a quadratic.
    nodes, weights = np.polynomial.hermite_e.hermegauss(2)
    noise = 0.2 * np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    for state in np.random.default_rng(0).normal(0, 0.5, (2, 2)):
        reward = -(state @ Q @ state) - ((actions @ R) * actions).sum(1)
        following = (A @ state + actions @ B.T)[:, None] + noise
        soft_q = reward + gamma * best.value(following) @ weights
        value = alpha * (np.logaddexp.reduce(soft_q / alpha) + np.log(cell))
        assert best.value(state) == pytest.approx(value, abs=1e-4 * alpha)
        assert best.log_prob(state, actions) == pytest.approx((soft_q - best.value(state)) / alpha, abs=1e-8)


@pytest.mark.parametrize(("alpha", "gamma"), OPTIONS)
def test_the_policy_is_the_gaussian_with_its_mean_and_covariance(alpha, gamma):
    best, state = NoisyLQR().optimum(alpha, gamma), np.array([0.4, -0.3])
    actions, cell = grid(400)
    mass = cell * np.exp(best.log_prob(state, actions))
    assert mass.sum() == pytest.approx(1, abs=1e-6)
    assert mass @ actions == pytest.approx(best.mean(state), abs=1e-6)
    error = actions - best.mean(state)
    assert error.T @ (mass[:, None] * error) == pytest.approx(best.covariance, abs=1e-6)
    assert abs(best.covariance[0, 1]) > 0.2 * best.covariance[0, 0]  # no diagonal Gaussian


def test_the_environment_pays_the_value():
    """Monte Carlo: discounted rewards and entropies of the best policy, from one state on."""
    alpha, gamma, state = 0.1, 0.9, np.array([0.6, -0.4])
    env, random = NoisyLQR(), np.random.default_rng(0)
    best = env.optimum(alpha, gamma)
    root = np.linalg.cholesky(best.covariance)
    env.reset(seed=1)
    returns = []
    for _ in range(100):
        env.state, total = state, 0.0
        for step in range(70):  # 0.9^70 is 0.0006
            action = best.mean(env.state) + root @ random.normal(size=2)
            entropy = -best.log_prob(env.state, action)
            _, reward, *_ = env.step(action)
            total += gamma**step * (reward + alpha * entropy)
        returns.append(total)
    deviation = np.std(returns) / np.sqrt(len(returns))
    assert np.mean(returns) == pytest.approx(best.value(state), abs=4 * deviation) and deviation < 0.1


def test_the_box_hardly_touches_the_policy():
    env = NoisyLQR()
    best = env.optimum(0.1, 0.99)
    states = np.array([env.reset(seed=seed)[0] for seed in range(300)])
    room = (1 - np.abs(best.mean(states))) / np.sqrt(np.diag(best.covariance))
    assert np.quantile(room, 0.01) > 4


def test_states_stay_bounded_and_only_time_ends_an_episode():
    env = gym.make("flowrl/NoisyLQR-v0")
    env.reset(seed=0)
    for step in range(200):
        observation, _, terminated, truncated, _ = env.step(np.array([1, -1], np.float32) * (-1) ** (step // 7))
        assert not terminated and truncated == (step == 199)
        assert np.abs(observation).max() < 50


def test_options_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="noise must be a number greater than 0, got 0"):
        NoisyLQR(noise=0)
    with pytest.raises(ValueError, match="gamma must be a number between 0 and 1, got 1.0"):
        NoisyLQR().optimum(gamma=1.0)
    with pytest.raises(ValueError, match="alpha must be a number greater than 0, got -1"):
        NoisyLQR().optimum(alpha=-1)


@pytest.mark.parametrize("gamma", [0.001, 0.089, 0.329, 0.977, 0.978])
def test_the_optimum_is_found_at_any_discount(gamma):
    """Where the last bit of the fixed point goes back and forth, too."""
    assert np.isfinite(NoisyLQR().optimum(gamma=gamma).constant)
