"""The library's own environments: registered, well-behaved, and with the best policy that they claim."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import flowrl  # noqa: F401  registers them
from flowrl.envs.two_good_actions import best_log_prob, grid, reward

ALL = [name for name in gym.registry if name.startswith("flowrl/")]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("error::UserWarning")
def test_gymnasium_and_stable_baselines3_find_nothing_to_complain_of(name):
    check_env(gym.make(name).unwrapped)
    check_env_for_sb3(gym.make(name).unwrapped)


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_and_actions_give_the_same_episode(name):
    episodes = []
    for _ in range(2):
        env = gym.make(name)
        env.action_space.seed(3)
        episode = [env.reset(seed=7)[0]]
        for _ in range(5):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            assert observation.dtype == np.float32
            episode += [observation, reward]
            if terminated or truncated:
                break
        episodes.append(np.hstack(episode))
    assert np.array_equal(*episodes)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("space", ["action_space", "observation_space"])
def test_the_random_numbers_of_an_environments_spaces_are_its_own(name, space):
    one, other = (getattr(gym.make(name), space) for _ in range(2))
    one.seed(0)
    expected = one.sample()
    one.seed(0)
    other.seed(1)
    assert np.array_equal(one.sample(), expected)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_best_policy_is_a_density_and_no_other_scores_higher(temperature):
    actions, cell = grid()
    best = best_log_prob(actions, temperature)
    assert (cell * best.exp().sum()).item() == pytest.approx(1, abs=1e-5)

    def objective(log_prob):  # E[r] + temperature * entropy
        return (cell * log_prob.exp() * (reward(actions) - temperature * log_prob)).sum()

    for change in (actions[:, 0], actions[:, 1].square(), reward(actions)):
        other = best + 0.1 * change
        assert objective(other - torch.logsumexp(other, 0) - np.log(cell)) < objective(best)


def test_a_temperature_at_which_peaks_are_narrower_than_cells_is_refused():
    with pytest.raises(ValueError, match="temperature must be a number greater than 0.002"):
        best_log_prob(torch.zeros(1, 2), 1e-3)


def test_two_actions_are_good_and_their_mean_is_not():
    env = gym.make("flowrl/TwoGoodActions-v0")
    returns = []
    for x in (-0.65, 0.0, 0.65):
        env.reset(seed=0)
        _, value, terminated, _, _ = env.step(np.array([x, 0.0], np.float32))
        assert terminated
        returns.append(value)
    assert returns == pytest.approx([0, -1, 0], abs=1e-3)
