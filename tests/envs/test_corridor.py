"""Corridor: what passes, how often the best policy succeeds, and how often independent dimensions do."""

import numpy as np
import pytest

from flowrl.envs.corridor import Corridor

UP, STRAIGHT = 0.5, 0.0


def pull(env, amount):
    """An action that pulls every cart by an amount."""
    action = np.zeros(env.action_space.shape)
    for cart in env.carts:
        action[cart] = amount / np.sqrt(len(cart))
    return action


def play(env, choose, episodes):
    """Mean success of a policy that enters with ``choose()`` and then goes straight on."""
    successes = 0
    for _ in range(episodes):
        observation, over = env.reset()[0], False
        while not over:
            action = choose() if observation[0] == 0 else pull(env, STRAIGHT)
            observation, reward, over, truncated, info = env.step(action)
            assert not truncated and reward == info["is_success"]
        successes += info["is_success"]
    return successes / episodes


@pytest.mark.parametrize("dimensions", [2, 3, 8, 17])
@pytest.mark.parametrize("open_lane", [-1, 1])
def test_the_open_lane_pays_and_the_closed_one_leads_back_to_the_start(dimensions, open_lane):
    env = Corridor(dimensions)
    start, _ = env.reset(seed=0)
    env.open = open_lane
    observation, reward, terminated, _, _ = env.step(pull(env, -UP * open_lane))
    assert observation == pytest.approx([0.5] + [-UP * open_lane] * len(env.carts)) and not terminated
    observation, reward, terminated, _, _ = env.step(pull(env, STRAIGHT))
    assert (observation == start).all() and (reward, terminated) == (0, False)
    env.step(pull(env, UP * open_lane))
    _, reward, terminated, _, info = env.step(pull(env, STRAIGHT))
    assert (reward, terminated) == (1, True) and info == dict(is_success=True, open=open_lane)


@pytest.mark.parametrize("amount", [STRAIGHT, 0.1, 0.9, -0.9])
def test_the_mean_action_and_the_walls_end_a_try_and_the_last_try_the_episode(amount):
    env = Corridor(8, tries=3)
    start, _ = env.reset(seed=0)
    for failures in (1, 2, 3):
        observation, reward, terminated, truncated, _ = env.step(pull(env, amount))
        assert (observation == start).all() and reward == 0
        assert (terminated, truncated) == (failures == 3, False)


def test_all_carts_must_be_in_one_lane_and_stay_there():
    env = Corridor(3)
    start, _ = env.reset(seed=0)
    assert (env.step(np.array([0.5, 0.5, -0.5]))[0] == start).all()
    env.step(np.array([0.75, 0.5, 0.5]))
    env.length = 9
    assert env.step(np.array([0.2, 0.0, 0.0]))[0][1] == pytest.approx(0.79)
    assert (env.step(np.array([0.2, 0.0, 0.0]))[0] == start).all()


def test_a_cart_may_not_change_its_lane():
    env = Corridor(17, length=9)
    start, _ = env.reset(seed=0)
    env.step(pull(env, 0.22))
    assert (env.step(pull(env, -2.4))[0] == start).all()  # to -0.26, through the obstacle


@pytest.mark.parametrize("dimensions", [2, 8])
def test_the_optimum_is_that_of_a_policy_that_takes_both_lanes_alike(dimensions):
    env, random = Corridor(dimensions), np.random.default_rng(0)
    env.reset(seed=1)
    assert env.optimum() == pytest.approx(1 - 0.5**6)
    assert play(env, lambda: pull(env, random.choice((-UP, UP))), 1_000) == pytest.approx(env.optimum(), abs=0.02)
    assert play(env, lambda: pull(env, UP), 1_000) == pytest.approx(0.5, abs=0.06)
    for p in np.linspace(0, 1, 11):
        assert env.success(p, 1 - p) <= env.optimum()


@pytest.mark.parametrize("dimensions", [2, 3, 4, 8, 17])
def test_a_gaussian_succeeds_in_little_more_than_half(dimensions):
    best = Corridor(dimensions).gaussian_optimum()
    assert 0.5 - 1e-6 <= best < 0.56


@pytest.mark.parametrize(("dimensions", "bound"), [(2, 0.822), (8, 0.551)])
def test_independent_carts_reach_the_bound_and_not_more(dimensions, bound):
    """A density of whatever shape in each dimension: a coin for each of G carts gives both lanes 2^-G."""
    env, random = Corridor(dimensions), np.random.default_rng(0)
    env.reset(seed=1)

    every = np.arange(dimensions)
    pulls = np.stack([pull(env, UP) * np.isin(every, cart) for cart in env.carts])

    def coins():
        return random.choice((-1, 1), len(pulls)) @ pulls

    assert play(env, coins, 1_000) == pytest.approx(bound, abs=0.05)
    for p, q in random.dirichlet((1, 1), (200, len(env.carts))).transpose(0, 2, 1).prod(-1):
        assert env.success(p, q) <= bound + 1e-3
    if dimensions == 8:  # carts of several dimensions, to which every p_k + q_k <= 1 is granted
        assert env.gaussian_optimum() == pytest.approx(bound, abs=1e-3)


@pytest.mark.parametrize("dimensions", [2, 8])
def test_no_sampled_gaussian_is_better_than_the_bound(dimensions):
    """The first step decides: its lanes, counted in samples, for many means and deviations."""
    env, random = Corridor(dimensions), np.random.default_rng(0)
    bound, root = env.gaussian_optimum(), [np.sqrt(len(cart)) for cart in env.carts]
    for _ in range(60):
        mean, std = random.normal(0, 0.6, dimensions), np.exp(random.uniform(-3, 1, dimensions))
        actions = np.tanh(mean * random.choice((0, 1)) + std * random.normal(size=(2_000, dimensions)))
        across = np.stack([actions[:, cart].sum(1) for cart in env.carts], 1) / root
        lanes = [((sign * across > 0.2) & (sign * across < 0.8)).all(1).mean() for sign in (1, -1)]
        assert env.success(*lanes) <= bound + 0.03


def test_the_open_lane_is_drawn_by_the_seed():
    env = Corridor()
    first, again = ([env.reset(seed=seed) and env.open for seed in range(30)] for _ in range(2))
    assert first == again and set(first) == {-1, 1}


def test_the_picture_shows_the_carts():
    env = Corridor(8, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(pull(env, UP))
    assert before.shape == (320, 320, 3) and (before != env.render()).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(dimensions=18), "dimensions must be a whole number from 2 to 17, got 18"),
        (dict(dimensions=1), "dimensions must be a whole number from 2 to 17, got 1"),
        (dict(tries=0), "tries must be a whole number of at least 1, got 0"),
        (dict(length=0), "length must be a whole number of at least 1, got 0"),
    ],
)
def test_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        Corridor(**options)
