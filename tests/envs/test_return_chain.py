"""ReturnChain: the returns that the environment pays, against their distribution."""

import numpy as np
import pytest

from flowrl.envs.return_chain import ReturnChain

GAMMA = 0.9
BRANCHES = {"safe": -0.5, "risky": 0.5}


def returns(env, action, episodes=3_000):
    """Discounted returns of a branch, from each of its places on, shape ``(length + 1, episodes)``."""
    samples = []
    for _ in range(episodes):
        env.reset()
        rewards, over = [], False
        while not over:
            _, reward, over, truncated, _ = env.step(np.array([action]))
            assert not truncated
            rewards.append(reward)
        samples.append([sum(GAMMA**i * reward for i, reward in enumerate(rewards[k:])) for k in range(len(rewards))])
    return np.transpose(samples)


@pytest.mark.parametrize("branch", BRANCHES)
def test_sampled_returns_have_the_distribution_in_every_state(branch):
    env = ReturnChain()
    env.reset(seed=0)
    samples, distributions = returns(env, BRANCHES[branch]), env.optimum(GAMMA)[branch]
    assert len(samples) == len(distributions) == env.length + 1
    for sample, distribution in zip(samples, distributions):
        # Kolmogorov and Smirnov: beyond 1.95 / sqrt(n) once in a thousand times.
        levels = distribution.cdf(np.sort(sample))
        assert np.abs(levels - (np.arange(len(sample)) + 0.5) / len(sample)).max() < 1.95 / np.sqrt(len(sample))
        assert sample.mean() == pytest.approx(distribution.mean, abs=0.15)
        worst = np.sort(sample)[: len(sample) // 5].mean()
        assert distribution.cvar(0.2) == pytest.approx(worst, abs=0.05)


def test_density_distribution_function_and_quantiles_agree():
    distribution = ReturnChain().optimum(GAMMA)["risky"][0]
    z = np.linspace(-6, 6, 4_001)
    assert np.trapezoid(distribution.density(z), z) == pytest.approx(1, abs=1e-9)
    assert np.trapezoid(z * distribution.density(z), z) == pytest.approx(distribution.mean, abs=1e-6)
    slopes = np.gradient(distribution.cdf(z), z)
    assert slopes[1:-1] == pytest.approx(distribution.density(z)[1:-1], abs=1e-4)
    levels = np.array([[0.001, 0.1], [0.3, 0.999]])
    assert distribution.cdf(distribution.quantile(levels)) == pytest.approx(levels, abs=1e-12)
    # CVaR is the mean of the quantiles below the level.
    below = distribution.quantile((np.arange(2_000) + 0.5) / 2_000 * 0.3)
    assert distribution.cvar(0.3) == pytest.approx(below.mean(), abs=1e-3)


def test_the_risky_branch_has_two_modes_the_better_mean_and_the_worse_tail():
    env = ReturnChain()
    for gamma in (0.9, 0.99, 1.0):
        safe, risky = (env.optimum(gamma)[branch] for branch in BRANCHES)
        for z_safe, z_risky in zip(safe, risky):
            assert z_risky.mean > z_safe.mean and z_risky.cvar(0.25) < z_safe.cvar(0.25)
            valley = z_risky.density(z_risky.means.mean())
            assert (z_risky.density(z_risky.means) > 10 * valley).all()


def test_the_first_action_alone_chooses():
    env = ReturnChain(length=2)
    observation, _ = env.reset(seed=0)
    seen = [observation] + [env.step(np.array([action]))[0] for action in (0.0, -1.0)]
    assert np.array_equal(seen, [(0, 0), (1, 0.5), (1, 1)])
    env.reset()
    assert env.step(np.array([-1e-6]))[0][0] == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(length=0), "length must be a whole number of at least 1, got 0"),
        (dict(noise=0.0), "noise must be a number greater than 0, got 0.0"),
        (dict(risk=1), "risk must be a number between 0 and 1, got 1"),
    ],
)
def test_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        ReturnChain(**options)


def test_levels_and_discounts_out_of_range_are_refused():
    with pytest.raises(ValueError, match="gamma must be a number from 0 to 1, got 2"):
        ReturnChain().optimum(2)
    with pytest.raises(ValueError, match="levels must be numbers between 0 and 1, got 1.0"):
        ReturnChain().optimum()["safe"][0].cvar(1.0)
