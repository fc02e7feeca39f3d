"""EnergyBandit: its density, its soft value, and how far a Gaussian stays below it."""

import math

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.energy_bandit import EnergyBandit
from flowrl.envs.quadrature import grid


@pytest.mark.parametrize("n_modes", [1, 4, 40])
def test_the_reward_is_the_log_of_a_density_on_the_box(n_modes):
    env = EnergyBandit(n_modes)
    actions, cell = grid()
    assert cell * np.exp(env.log_density(actions)).sum() == pytest.approx(1, abs=2e-4)
    assert env.log_density(actions).min() >= np.log(env.background / 4)


def test_the_reward_is_the_log_of_a_density_in_three_dimensions_too():
    actions = np.random.default_rng(0).uniform(-1, 1, (200_000, 3))
    assert 8 * np.exp(EnergyBandit(4, 3).log_density(actions)).mean() == pytest.approx(1, abs=0.05)


def test_the_reward_is_finite_in_a_thousand_dimensions():
    """Where densities are beyond float64 at the centre of a mode, and far from it nothing is left of them."""
    env = EnergyBandit(1, 1_000)
    (centre,) = env.centers
    inside = [0.5 * (math.erf((1 - c) / env.scale / 2**0.5) + math.erf((1 + c) / env.scale / 2**0.5)) for c in centre]
    peak = -sum(math.log(part * env.scale * (2 * math.pi) ** 0.5) for part in inside)
    assert peak > 709, "or its exponential would be finite"
    assert env.log_density(centre) == pytest.approx(math.log(1 - env.background) + peak)
    assert env.log_density(-centre) == pytest.approx(math.log(env.background) - 1_000 * math.log(2))


def test_modes_cut_off_by_the_box_are_normalised_there():
    env = EnergyBandit(n_modes=2, scale=0.5)
    actions, cell = grid(400)
    assert cell * np.exp(env.log_density(actions)).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("n_modes", [4, 40])
def test_every_centre_is_a_mode_apart_from_the_others(n_modes):
    env = EnergyBandit(n_modes)
    distances = np.linalg.norm(env.centers[:, None] - env.centers, axis=-1) + 9 * np.eye(n_modes)
    middles = (env.centers + env.centers[distances.argmin(1)]) / 2
    assert env.log_density(env.centers).min() > env.log_density(middles).max() + 1


def test_a_step_pays_the_log_density_and_ends():
    env = gym.make("flowrl/EnergyBandit-v0", n_modes=3, dimensions=5)
    env.reset(seed=0)
    action = np.full(5, 0.3, np.float32)
    _, reward, terminated, _, _ = env.step(action)
    assert terminated and reward == pytest.approx(env.unwrapped.log_density(action))


def test_the_seed_places_the_centres_and_an_episodes_seed_does_not():
    one, same, other = EnergyBandit(seed=1), EnergyBandit(seed=1), EnergyBandit(seed=2)
    one.reset(seed=5)
    assert np.array_equal(one.centers, same.centers) and not np.array_equal(one.centers, other.centers)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_the_best_policy_is_a_density_that_attains_the_optimum_and_no_other_exceeds_it(alpha):
    env = EnergyBandit()
    actions, cell = grid(400)
    reward, best = env.log_density(actions), env.best_log_prob(actions, alpha)
    assert cell * np.exp(best).sum() == pytest.approx(1, abs=1e-4)

    def objective(log_prob):  # E[r] + alpha * entropy
        return cell * (np.exp(log_prob) * (reward - alpha * log_prob)).sum()

    assert objective(best) == pytest.approx(env.optimum(alpha), abs=1e-4 * (1 + alpha))
    for change in (actions[:, 0], actions[:, 1] ** 2, reward):
        other = best + 0.1 * change
        assert objective(other - np.log(cell * np.exp(other).sum())) < objective(best)


def test_the_optimum_falls_towards_the_uniform_policys_as_the_temperature_grows():
    env = EnergyBandit()
    actions, _ = grid(400)
    assert env.optimum(1.0) == 0
    assert env.optimum(1 + 1e-6) == pytest.approx(0, abs=1e-4)
    assert env.optimum(100.0) / 100 == pytest.approx(np.log(4) + env.log_density(actions).mean() / 100, abs=1e-3)
    assert env.optimum(0.01) == pytest.approx(env.log_density(actions).max(), abs=0.1)


def test_a_gaussian_covers_one_mode_of_four():
    """One mode of a mixture of four, well apart, has a quarter of the mass: log 4 nats are lost."""
    env = EnergyBandit()
    assert env.optimum() - env.gaussian_optimum() == pytest.approx(np.log(4), abs=0.05)


@pytest.mark.parametrize("scale", [0.03, 0.01, 0.003])
def test_a_gaussian_covers_a_narrow_mode_as_well(scale):
    assert EnergyBandit(scale=scale).gaussian_optimum() == pytest.approx(-np.log(4), abs=0.05)


def test_narrow_modes_that_lie_on_nodes_of_the_quadrature_are_not_counted_in_full():
    """A wide Gaussian finds next to nothing of a few narrow modes: it earns what the background pays."""
    flat = EnergyBandit(background=1 - 1e-12).gaussian_optimum()
    wide = EnergyBandit(background=0.9, scale=0.003).gaussian_optimum()
    assert wide == pytest.approx(flat + np.log(0.9), abs=0.002)


def test_a_single_mode_is_nearly_a_gaussian():
    """Monte Carlo knows nothing of quadrature."""
    env, random = EnergyBandit(n_modes=1), np.random.default_rng(0)
    env.centers = np.zeros((1, 2))
    assert -0.05 < env.gaussian_optimum() < 0
    u = random.normal(0.0, env.scale, (100_000, 2))
    slope = np.log1p(-(np.tanh(u) ** 2)).sum(1)
    log_prob = (-0.5 * (u / env.scale) ** 2 - np.log(env.scale * np.sqrt(2 * np.pi))).sum(1) - slope
    assert (env.log_density(np.tanh(u)) - log_prob).mean() <= env.gaussian_optimum() + 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_modes=0), "n_modes must be a whole number of at least 1, got 0"),
        (dict(dimensions=1.5), "dimensions must be a whole number of at least 1, got 1.5"),
        (dict(scale=-0.1), "scale must be a number greater than 0, got -0.1"),
        (dict(background=1.0), "background must be a number between 0 and 1, got 1.0"),
    ],
)
def test_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        EnergyBandit(**options)


def test_what_quadrature_cannot_reach_is_refused():
    env = EnergyBandit(dimensions=3)
    assert env.optimum() == 0
    for method in (env.optimum, env.gaussian_optimum):
        with pytest.raises(ValueError, match="3 dimensions|has 3"):
            method(0.5)
    with pytest.raises(ValueError, match="alpha must be a number greater than 0, got 0"):
        env.optimum(0)


@pytest.mark.parametrize(("scale", "alpha"), [(0.001, 0.999), (0.12, 1e-4)])
def test_narrow_modes_are_integrated_in_one_dimension_and_refused_in_two(scale, alpha):
    """With next to no background a single mode's integral is a Gaussian's."""
    line, plane = (EnergyBandit(1, d, scale=scale, background=1e-12) for d in (1, 2))
    peak = line.log_density(line.centers[0])
    expected = peak + alpha * np.log(scale * np.sqrt(2 * np.pi * alpha))
    assert line.optimum(alpha) / alpha == pytest.approx(expected / alpha, abs=1e-6)
    for method in (plane.optimum, lambda alpha: plane.best_log_prob(plane.centers, alpha)):
        with pytest.raises(ValueError, match=f"scale={scale:g} are too narrow for quadrature at alpha={alpha:g}"):
            method(alpha)


def test_finer_quadrature_agrees_with_the_coarse_one():
    env = EnergyBandit(scale=0.03)
    actions, cell = grid(800)
    assert env.optimum(0.02) == pytest.approx(
        0.02 * np.log(cell * np.exp(env.log_density(actions) / 0.02).sum()), abs=1e-9
    )
