"""A run that is resumed does what it would have done: the same weights and the same tables, to the last bit."""

import csv
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.save_util import load_from_zip_file

from experiments.run import main
from experiments.training import continuation
from experiments.training.checkpoints import load_checkpoint, save_checkpoint
from experiments.training.clock import TrainingClock
from experiments.training.run_directory import RunDirectory
from tests.environments import ReachGoal
from tests.models import build

SMALL = "learning_starts=30 batch_size=16 buffer_size=500 policy_kwargs.net_arch=[16]".split()
ON_POLICY = "n_steps=16 n_epochs=2 policy_kwargs.net_arch=[16]".split()
TIMES = (
    "time/fps",
    "time/time_elapsed",
    "time/steps_per_second",
    "time/iterations",  # of a session
    "wall_seconds",
    "training_seconds",
    "steps_per_second",
)


gym.register("ReachGoal-v0", entry_point=ReachGoal, max_episode_steps=10)


def train(tmp_path, env, agent, *more, steps=108):
    """A run whose checkpoints, at 55 and its last step, are in the midst of episodes."""
    settings = ON_POLICY if agent in ("flow-ppo", "snf", "ppo") else SMALL
    words = ["--env", env, "--agent", agent, "--steps", str(steps), "--seed", "3", "--logdir", str(tmp_path)]
    words += ["--eval-every", "54", "--eval-episodes", "1", "--checkpoint-every", "55", "--no-progress"]
    words += ["--env-set", "max_episode_steps=23"]
    assert main([*words, *(word for setting in settings for word in ("--set", setting)), *more]) == 0
    (path,) = tmp_path.glob("*/*/*")
    return path


def table(path):
    with open(path) as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def parameters(path):
    """Of the policy, and the temperature."""
    _, parameters, variables = load_from_zip_file(path / "last_model.zip", device="cpu")
    return parameters["policy"] | (variables or {})


def assert_resumes_exactly(path):
    """From its first checkpoint, as if the process had been killed after it."""
    killed = path.with_name("killed")
    shutil.copytree(path, killed)
    first, *later = RunDirectory.open(killed).checkpoints()
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    assert (first / continuation.CONTINUATION).exists()
    assert main(["--resume", str(killed), "--no-progress"]) == 0
    for name in ("evaluations.csv", "progress.csv"):
        whole, resumed = table(path / name), table(killed / name)
        assert len(whole) == len(resumed) > 1
        for ours, theirs in zip(whole, resumed):
            assert ours == theirs, name
    whole, resumed = parameters(path), parameters(killed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("env", "agent", "more"),
    [
        ("Pendulum", "flow-sac", []),
        ("Pendulum", "flow-sac", ["--num-envs", "2", "--set", "n_steps=3", "--set", "normalize=True"]),
        pytest.param("Pendulum", "nfac", ["--set", "noise_hold=2.0"], marks=pytest.mark.slow),
        ("MultiTask", "nfac", ["--env-set", "observation=dict"]),
        ("Pendulum", "nfq", []),
        ("Pendulum", "flow-ppo", ["--num-envs", "2"]),
        ("Pendulum", "flow-ppo", ["--num-envs", "2", "--vec-env", "subproc", "--set", "normalize=True"]),
        ("Pendulum", "flow-sac", ["--num-envs", "2", "--vec-env", "subproc"]),
        ("HiddenGoal", "snf", ["--num-envs", "1"]),
        ("Pendulum", "sac", ["--set", "learning_starts=70"]),  # its actions at the checkpoint are random
        ("ReachGoal-v0", "flow-sac", ["--set", "replay_buffer_class=HerReplayBuffer"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[1::2]),
)
def test_to_the_last_bit(tmp_path, monkeypatch, env, agent, more):
    monkeypatch.setattr("experiments.training.run_directory.FULL_CHECKPOINTS", 9)
    assert_resumes_exactly(train(tmp_path, env, agent, *more))


def test_to_the_last_bit_in_mujoco(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setattr("experiments.training.run_directory.FULL_CHECKPOINTS", 9)
    assert_resumes_exactly(train(tmp_path, "Hopper", "flow-sac"))


def test_a_finished_run_grows_as_if_it_had_been_longer(tmp_path):
    longer = train(tmp_path / "longer", "Pendulum", "flow-sac")
    shorter = train(tmp_path / "shorter", "Pendulum", "flow-sac", steps=54)
    assert main(["--resume", str(shorter), "--steps", "108", "--no-progress"]) == 0
    assert table(longer / "evaluations.csv") == table(shorter / "evaluations.csv")
    whole, resumed = parameters(longer), parameters(shorter)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_environment_that_cannot_be_saved_starts_a_new_episode_and_says_so(tmp_path, capsys):
    pytest.importorskip("Box2D")
    words = ["--set", "train_freq=1", "--set", "gradient_steps=1"]
    path = train(tmp_path, "BipedalWalker", "flow-sac", *words, steps=100)
    output = capsys.readouterr().out
    assert output.count("cannot be saved") == 1 and "a resumed run starts a new episode" in output
    assert main(["--resume", str(path), "--steps", "110", "--no-progress"]) == 0


class Unreadable(gym.Wrapper):
    """It can be pickled, and never unpickled: before it has an environment, it asks that environment for everything."""

    def __getattr__(self, name):
        return getattr(self.env, name)


def test_an_environment_that_can_be_written_but_not_read_is_not_kept(tmp_path):
    model = build("SAC", env=Unreadable(gym.make("Pendulum-v1")), learning_starts=5)
    assert "RecursionError" in save_checkpoint(model, tmp_path / "step_0", TrainingClock(), [])
    assert continuation.load_environment(tmp_path / "step_0") is None


def test_the_checkpoint_of_a_broken_environment_does_not_hold_it(tmp_path):
    model = build("SAC")
    assert save_checkpoint(model, tmp_path / "step_0", TrainingClock()) is None
    assert continuation.load_environment(tmp_path / "step_0") is None


def test_environments_come_back_in_the_midst_of_an_episode(tmp_path):
    model = build("SAC", learning_starts=5)
    model.learn(7)
    assert save_checkpoint(model, tmp_path / "step_7", TrainingClock(), []) is None
    loaded = load_checkpoint(type(model), tmp_path / "step_7", lambda: model.env, "cpu")
    assert loaded.env is not model.env
    np.testing.assert_array_equal(loaded._last_obs, model._last_obs)
    action = np.zeros((1, 2), np.float32)
    for ours, theirs in zip(model.env.step(action)[:3], loaded.env.step(action)[:3]):
        np.testing.assert_array_equal(ours, theirs)
