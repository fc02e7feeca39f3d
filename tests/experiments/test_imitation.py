"""`experiments/studies/imitation.py`: a task that asks for a side, and demonstrations that take both."""

import csv
import json

import numpy as np
import pytest

from experiments.studies import imitation
from experiments.training.environments import find_environment, make_environment
from flowrl.envs.obstacle import RADIUS, Demonstrator, distance_to_segment


@pytest.fixture
def env():
    return make_environment(find_environment("flowrl/Obstacle"))


def episode(env, act, seed):
    observation, _ = env.reset(seed=seed)
    positions, done = [observation[:2]], False
    while not done:
        observation, reward, terminated, truncated, info = env.step(act(observation))
        positions.append(observation[:2])
        done = terminated or truncated
    return np.array(positions), reward, info["is_success"]


def test_the_demonstrator_reaches_the_goal_on_either_side(env):
    demonstrator = Demonstrator(seed=3)
    sides = []
    for seed in range(100):
        demonstrator.begin()
        positions, reward, success = episode(env, demonstrator.act, seed)
        assert success and reward == 1 and len(positions) <= 20
        sides.append(np.sign(positions[len(positions) // 2, 0]))
    assert 35 < np.sum(np.array(sides) == 1) < 65


def test_the_first_state_does_not_tell_the_side_and_the_next_one_does(env):
    demonstrator, first, second, sides = Demonstrator(seed=0), [], [], []
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        demonstrator.begin()
        first.append(observation[0])
        second.append(env.step(demonstrator.act(observation))[0][0])
        sides.append(demonstrator.side)
    assert abs(np.corrcoef(first, sides)[0, 1]) < 0.2
    assert np.array_equal(np.sign(second), sides)


def test_the_mean_of_both_sides_runs_into_the_disc(env):
    positions, reward, success = episode(env, lambda _: np.array([0.0, 0.7], np.float32), 0)
    assert not success and reward == -1
    assert distance_to_segment(positions[-2], positions[-1]) < RADIUS


def test_who_stands_still_fails_when_the_time_is_up(env):
    positions, reward, success = episode(env, lambda _: np.zeros(2, np.float32), 0)
    assert not success and reward == 0 and len(positions) == 21


def test_wilsons_interval():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert imitation.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert imitation.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_the_experiment_writes_its_table_and_its_picture(tmp_path, monkeypatch):
    pytest.importorskip("h5py", reason="h5py is in the 'demos' extra")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    for name, value in (("DEMONSTRATIONS", 20), ("STEPS", 20), ("EPISODES", 5)):
        monkeypatch.setattr(imitation, name, value)
    for _ in range(2):  # the second time with the demonstrations of the first
        assert imitation.main(["--flows", "triangular", "--output", str(tmp_path / "results")]) == 0
    with open(tmp_path / "results" / "imitation.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["policy"], row["actions"]) for row in rows] == [
        (policy, actions) for policy in ("Gaussian", "flow, triangular") for actions in ("sampled", "deterministic")
    ]
    made = json.loads((tmp_path / "results" / "imitation.json").read_text())
    assert made["demonstrations"]["dataset_id"] == imitation.NAME and made["versions"]["torch"]
    assert (tmp_path / "results" / "imitation.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(imitation, "DEMONSTRATIONS", 21)
    assert imitation.main(["--output", str(tmp_path / "results")]) == 2


@pytest.mark.slow
def test_a_cloned_flow_picks_a_side_and_a_cloned_gaussian_does_not(tmp_path, monkeypatch):
    """The result that experiments/results/imitation.csv records, with room for another processor's rounding."""
    pytest.importorskip("h5py", reason="h5py is in the 'demos' extra")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    assert imitation.main(["--output", str(tmp_path)]) == 0
    with open(tmp_path / "imitation.csv") as file:
        rate = {(row["policy"], row["actions"]): float(row["success_rate"]) for row in csv.DictReader(file)}
    assert rate["flow, nsf", "sampled"] >= 0.95 and rate["flow, triangular", "sampled"] >= 0.95
    assert rate["Gaussian", "sampled"] <= 0.75 and rate["Gaussian", "deterministic"] <= 0.1
