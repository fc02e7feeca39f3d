"""MultiGoal: the walk, its end, and the best return."""

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.multi_goal import MultiGoal


def walk(env, moves):
    """Return of moves from the origin."""
    env.reset(seed=0)
    env.path = [np.zeros(2)]
    rewards = [env.step(np.asarray(move)) for move in moves]
    return sum(reward for _, reward, *_ in rewards), rewards[-1]


def test_a_step_moves_costs_and_stays_within_the_walls():
    env = MultiGoal()
    _, (observation, reward, terminated, _, info) = walk(env, [(0.5, 0.0)])
    assert observation == pytest.approx([0.5, 0]) and not terminated
    assert reward == pytest.approx(-30 * 0.25 - 4.5**2) and info == dict(is_success=False, goal=-1)
    _, (observation, *_) = walk(env, [(3.0, 3.0)] * 9)
    assert observation == pytest.approx([7, 7])


@pytest.mark.parametrize("goal", range(4))
def test_a_walk_ends_at_the_goal_that_it_reaches(goal):
    env = MultiGoal()
    way = env.goals[goal] / 5
    _, (_, reward, terminated, truncated, info) = walk(env, [0.82 * way] * 5)
    assert terminated and not truncated and info == dict(is_success=True, goal=goal)
    assert reward == pytest.approx(10 - 30 * 0.82**2 - 0.9**2)


def test_the_time_is_up_after_thirty_steps():
    env = gym.make("flowrl/MultiGoal-v0")
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(30)]
    assert ends[-1] == (False, True) and not any(map(any, ends[:-1]))


def best_moves(steps):
    """Moves that minimise sum 30 v^2 + d^2 from d = 5 to d = 1: a linear system, and no grid."""
    # Distances d_1 ... d_{n-1}: 30 (2 d_i - d_{i-1} - d_{i+1}) + d_i = 0.
    system = 61 * np.eye(steps - 1) - 30 * (np.eye(steps - 1, k=1) + np.eye(steps - 1, k=-1))
    ends = np.zeros(steps - 1)
    ends[0] += 30 * 5
    ends[-1] += 30 * 1
    return -np.diff(np.concatenate(([5.0], np.linalg.solve(system, ends), [1.0])))


def test_the_optimum_is_the_return_of_the_best_straight_walk():
    env = MultiGoal()
    returns = []
    for steps in range(4, 12):
        moves = best_moves(steps)
        distances = 5 - moves.cumsum()
        returns.append(10 - (30 * moves**2 + distances**2).sum())
    assert env.optimum() == pytest.approx([max(returns)] * 4, abs=0.01)
    # And the environment pays it, but for the hair's breadth that ends inside the goal.
    moves = best_moves(4 + int(np.argmax(returns)))
    moves[-1] += 1e-6
    assert moves.max() < 1
    total, (_, _, terminated, _, _) = walk(env, np.stack((moves, 0 * moves), 1))
    assert terminated and total == pytest.approx(max(returns), abs=1e-3)


def test_no_crooked_walk_is_better():
    env, random = MultiGoal(), np.random.default_rng(0)
    best, straight = env.optimum().max(), np.stack((best_moves(7), np.zeros(7)), 1)
    straight[-1] += 1e-6
    for _ in range(200):
        crooked = straight + random.normal(0, 0.05, straight.shape)
        total, (_, _, _, _, info) = walk(env, crooked)
        assert not info["is_success"] or total <= best


def test_a_discount_makes_the_cost_to_come_smaller():
    env = MultiGoal()
    assert (env.optimum(0.9) > env.optimum()).all()
    assert MultiGoal(goal_reward=0).optimum()[0] == pytest.approx(env.optimum()[0] - 10)


def test_goals_move():
    env = MultiGoal(goals=((3.0, 3.0), (-5.0, 0.0)))
    best = env.optimum()
    assert best.shape == (2,) and best[0] > best[1]  # nearer, and diagonally faster


def test_a_goal_behind_another_is_not_reached():
    """By the best walk to the first one, and then none: where it would go on from there the episode is over."""
    env = MultiGoal(goals=((3.0, 0.0), (6.0, 0.0)), action_cost=1.0, goal_reward=1_000.0)
    first, behind = env.optimum()
    assert first > 900 and behind < 0
    assert first == pytest.approx(MultiGoal(goals=((3.0, 0.0),), action_cost=1.0, goal_reward=1_000.0).optimum()[0])


def test_the_first_state_is_seeded_near_the_origin():
    env = MultiGoal()
    starts = np.array([env.reset(seed=seed)[0] for seed in range(200)])
    assert starts.dtype == np.float32 and starts.std() == pytest.approx(0.1, abs=0.02)
    assert (env.reset(seed=7)[0] == starts[7]).all()


def test_the_picture_shows_the_path():
    env = MultiGoal(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(np.ones(2))
    assert before.shape == (320, 320, 3) and (before != env.render()).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(goals=()), "goals must be one or more points of 2 numbers from -7 to 7, got \\(\\)"),
        (dict(goals=((8.0, 0.0),)), "goals must be one or more points of 2 numbers from -7 to 7"),
        (dict(goals=((0.5, 0.0),)), "goals must be farther than 1 from the start"),
        (dict(action_cost=0.0), "action_cost must be a number greater than 0, got 0.0"),
        (dict(goal_reward=float("nan")), "goal_reward must be a number greater than -inf, got nan"),
    ],
)
def test_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        MultiGoal(**options)


def test_a_discount_beyond_one_is_refused():
    with pytest.raises(ValueError, match="gamma must be a number from 0 to 1, got 1.5"):
        MultiGoal().optimum(1.5)
