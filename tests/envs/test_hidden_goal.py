"""HiddenGoal: what is found, how often the best policy finds it, and how often a Gaussian does."""

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.hidden_goal import HiddenGoal


def play(env, choose, episodes):
    """Mean success of a policy without memory."""
    successes = 0
    for _ in range(episodes):
        env.reset()
        over = False
        while not over:
            _, reward, over, truncated, info = env.step(choose())
            assert not truncated and reward == info["is_success"]
        successes += info["is_success"]
    return successes / episodes


def test_the_hidden_goal_ends_the_episode_and_the_last_try_terminates_it():
    env = gym.make("flowrl/HiddenGoal-v0")
    _, _ = env.reset(seed=0)
    for tries in range(1, 6):
        observation, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, truncated) == (0, tries == 5, False) and not observation.any()
    env.reset(seed=0)
    goal = env.unwrapped.goals[info["goal"]]
    _, reward, terminated, _, info = env.step((goal + [0.07, 0.06]).astype(np.float32))
    assert (reward, terminated, info["is_success"]) == (1, True, True)


def test_the_optimum_is_that_of_a_policy_that_tries_every_goal_alike():
    env, random = HiddenGoal(), np.random.default_rng(0)
    env.reset(seed=1)  # with the same seed the policy would guess what the environment draws
    assert env.optimum() == pytest.approx(1 - 0.75**5)
    assert play(env, lambda: random.choice(env.goals), 4_000) == pytest.approx(env.optimum(), abs=0.025)
    for hits in random.dirichlet(np.ones(4), 100):
        assert env.success(hits) <= env.optimum()


def test_the_best_gaussian_finds_one_goal_of_four():
    env, random = HiddenGoal(), np.random.default_rng(0)
    assert env.gaussian_optimum() == pytest.approx(0.25, abs=0.001)
    env.reset(seed=1)
    # Wide across two goals, as in the search: it misses both too often.
    wide = play(env, lambda: np.tanh(random.normal(0, (0.56, 0.05))), 4_000)
    assert 0.15 < wide < env.gaussian_optimum()


@pytest.mark.parametrize(
    ("options", "least"),
    [(dict(radius=0.01), 0.25), (dict(goals=((0.52, 0.13),), radius=0.02), 1.0), (dict(goals=((0.98, 0.98),)), 0.9)],
    ids=str,
)
def test_the_best_gaussian_always_finds_one_goal(options, least):
    assert HiddenGoal(**options).gaussian_optimum() >= least - 1e-6


def test_hits_are_a_densitys_probabilities_of_the_discs():
    env = HiddenGoal(radius=0.2)
    assert env.hits(lambda actions: np.full(len(actions), 0.25)) == pytest.approx(0.25 * np.pi * 0.2**2)

    def narrow(actions):  # a Gaussian over the first disc: its radius is two deviations
        return np.exp(-0.5 * ((actions - env.goals[0]) ** 2).sum(1) / 0.1**2) / (2 * np.pi * 0.1**2)

    assert env.hits(narrow) == pytest.approx([1 - np.exp(-2), 0, 0, 0], abs=1e-5)


def test_hits_of_discs_that_stick_out_of_the_box_are_those_inside():
    env = HiddenGoal(goals=((1.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (0.0, 0.95)))

    def uniform(actions):
        assert (np.abs(actions) <= 1).all(), "a density of the box is asked of actions in it alone"
        return np.full(len(actions), 0.25)

    assert env.hits(uniform)[:3] == pytest.approx(0.25 * np.pi * 0.1**2 / np.array([2, 2, 4]))
    segment = 0.1**2 * np.arccos(0.5) - 0.05 * np.sqrt(0.1**2 - 0.05**2)
    assert env.hits(uniform)[3] == pytest.approx(0.25 * (np.pi * 0.1**2 - segment), rel=0.01)


def test_a_goal_is_drawn_by_the_seed_and_each_as_often():
    env = HiddenGoal()
    first, again = ([env.reset(seed=seed) and env.goal for seed in range(40)] for _ in range(2))
    assert first == again and set(first) == {0, 1, 2, 3}


def test_more_dimensions_and_other_goals():
    env = HiddenGoal(dimensions=4)
    assert env.goals.shape == (4, 4) and env.action_space.shape == (4,)
    assert HiddenGoal(goals=((0.5, 0.5), (-0.5, -0.5)), tries=2).optimum() == pytest.approx(0.75)
    for method in (env.gaussian_optimum, lambda: env.hits(len)):
        with pytest.raises(ValueError, match="2 dimensions, this environment has 4"):
            method()


def test_the_picture_shows_the_tries():
    env = HiddenGoal(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(np.array([0.9, 0.9]))
    assert before.shape == (320, 320, 3) and before.dtype == np.uint8 and (before != env.render()).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tries=0), "tries must be a whole number of at least 1, got 0"),
        (dict(dimensions=1), "dimensions must be a whole number of at least 2, got 1"),
        (
            dict(radius=0.4),
            "radius must be less than half of the smallest distance between two goals, 0.707107, got 0.4",
        ),
        (dict(goals=((0.0, 2.0),)), "goals must be one or more points of 2 numbers from -1 to 1"),
        (dict(goals=((0.0, 0.5, 0.0),)), "goals must be one or more points of 2 numbers"),
        (dict(dimensions=3, render_mode="rgb_array"), "draws 2 dimensions, got dimensions=3"),
    ],
)
def test_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        HiddenGoal(**options)
