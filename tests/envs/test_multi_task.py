"""MultiTask: every task as often, named in the observation, its reward its own environment's."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import flowrl  # noqa: F401  registers them
from flowrl.envs.multi_task import MultiTask, TargetSpeed


def make(**kwargs):
    return gym.make("flowrl/MultiTask-v0", **kwargs)


@pytest.mark.parametrize("family", ["multi-goal", "half-cheetah"])
@pytest.mark.parametrize("observation", ["flat", "dict"])
def test_gymnasium_and_stable_baselines3_find_nothing_to_complain_of(family, observation):
    if family == "half-cheetah":
        pytest.importorskip("mujoco")
    check_env(make(family=family, observation=observation).unwrapped, skip_render_check=True)
    check_env_for_sb3(make(family=family, observation=observation).unwrapped)


def test_tasks_are_drawn_without_replacement_and_the_observation_names_them():
    env = make()
    names = list(env.unwrapped.tasks)
    seen = []
    for episode in range(40):
        observation, info = env.reset(seed=3 if episode == 0 else None)
        seen.append(info["task"])
        assert observation[2:].tolist() == [float(name == info["task"]) for name in names]
    assert all(sorted(seen[i : i + 4]) == sorted(names) for i in range(0, 40, 4))
    assert len({tuple(seen[i : i + 4]) for i in range(0, 40, 4)}) > 3, "in an order that changes"
    same = [env.reset(seed=3 if episode == 0 else None)[1]["task"] for episode in range(40)]
    assert same == seen


def test_a_task_can_be_asked_for_and_its_reward_is_that_of_its_environment():
    env, alone = make(observation="dict"), gym.make("flowrl/MultiGoal-v0", goals=[(0, 5)])
    observation, info = env.reset(seed=0, options={"task": "goal_0_5"})
    assert info["task"] == "goal_0_5" and observation["task"] == 2
    alone.reset(seed=0)
    alone.unwrapped.path = [env.unwrapped.tasks["goal_0_5"].unwrapped.path[0]]
    for _ in range(5):
        action = np.array([0.1, 0.9], np.float32)
        ours, reward, terminated, _, info = env.step(action)
        theirs, expected, _, _, _ = alone.step(action)
        assert reward == expected and info["task"] == "goal_0_5"
        np.testing.assert_array_equal(ours["observation"], theirs)
    assert terminated and info["is_success"]


def test_a_cheetah_is_paid_for_its_speed():
    pytest.importorskip("mujoco")
    env = TargetSpeed(gym.make("HalfCheetah-v5"), 2.0)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.full(6, 0.5, np.float32))
    assert reward == pytest.approx(-abs(info["x_velocity"] - 2.0) - 0.1 * 6 * 0.25)
    assert info["is_success"] is False


def test_a_family_of_ones_own():
    tasks = {name: gym.make("Pendulum-v1", g=g) for name, g in (("moon", 1.6), ("earth", 9.8))}
    env = MultiTask(tasks)
    assert env.reset(seed=0)[0].shape == (5,)
    with pytest.raises(ValueError, match="'hill' has other spaces"):
        MultiTask(tasks | {"hill": gym.make("MountainCarContinuous-v0")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(family="ants"), "one of multi-goal, half-cheetah"),
        (dict(family={}), "at least one task"),
        (dict(observation="image"), "'flat' or 'dict'"),
        (dict(variants=((9, 0),)), "points of 2 numbers"),
        (dict(variants=((3, 0), (0, 3), (3.0, 0.0))), "must differ in the names of their tasks, goal_3_0, goal_0_3"),
        (dict(family="half-cheetah", variants=3), "sequence of speeds"),
        (dict(family={"a": 1}, variants=(1,)), "variants are of a family by name"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        MultiTask(**options)


def test_an_unknown_task():
    with pytest.raises(ValueError, match="no task 'north', only goal_5_0"):
        MultiTask().reset(options={"task": "north"})
