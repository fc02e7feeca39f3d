"""Environments in processes of their own: the same numbers as in turn, and an error at once where one is lost."""

import os
import re
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from experiments.run import main
from experiments.training.checkpoints import save_checkpoint
from experiments.training.clock import TrainingClock
from experiments.training.continuation import load_environment, save_environment
from experiments.training.environments import find_environment, make_vector_environment, with_options
from experiments.training.workers import WorkerLost, Workers
from tests.models import build


class Unsaved(PendulumEnv):
    """A simulator that cannot be pickled."""

    def __init__(self):
        super().__init__()
        self.simulator = (number for number in range(3))


class Doomed(PendulumEnv):
    """Its process is killed after some steps, once: a file says that it was."""

    steps_taken = 0

    def __init__(self, marker=""):
        super().__init__()
        self.marker = marker

    def step(self, action):
        self.steps_taken += 1
        if self.steps_taken == 90 and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


gym.register("Doomed-v0", entry_point=Doomed, max_episode_steps=200)


@pytest.fixture
def workers():
    made = []

    def make(*makers):
        made.append(Workers(list(makers)))
        return made[-1]

    yield make
    for each in made:
        each.close()
        each.close()  # twice is once


def test_the_numbers_are_those_of_environments_in_turn():
    """Beyond the end of an episode."""
    environment = with_options(find_environment("Pendulum"), ["max_episode_steps=3"])
    both = [make_vector_environment(environment, 2, True, 0.99, vec_env=name) for name in ("dummy", "subproc")]
    for env in both:
        env.seed(3)
    observations = [env.reset() for env in both]
    np.testing.assert_array_equal(*observations)
    ends = 0
    for action in np.linspace(-2, 2, 4 * 7, dtype=np.float32).reshape(7, 2, 2)[..., :1]:
        ours, theirs = (env.step(action) for env in both)
        for mine, other in zip(ours[:3], theirs[:3]):
            np.testing.assert_allclose(mine, other, rtol=1e-6)  # rewards are float32 in turn, float64 elsewhere
        for mine, other in zip(ours[3], theirs[3]):
            assert mine["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if mine["TimeLimit.truncated"]:
                ends += 1
                np.testing.assert_array_equal(mine["terminal_observation"], other["terminal_observation"])
    assert ends == 4
    for env in both:
        env.close()


def test_one_that_cannot_be_pickled_says_why_and_goes_on(workers, tmp_path):
    env = workers(Unsaved)
    env.reset()
    assert "generator" in save_environment(env, tmp_path)
    assert load_environment(tmp_path) is None
    assert env.step(np.zeros((1, 1), np.float32))[1].shape == (1,)


def test_a_lost_process_is_named_and_the_others_are_not_waited_for(workers):
    env = workers(*[PendulumEnv] * 4)
    env.reset()
    env.processes[3].kill()
    begin = time.monotonic()
    with pytest.raises(WorkerLost, match=r"process 4 of 4 \(killed by SIGKILL\)"):
        for _ in range(2):
            env.step(np.zeros((4, 1), np.float32))
    assert time.monotonic() - begin < 2.5, "it looked at each of the others for a second"
    for process in env.processes:
        process.join(timeout=5)
        assert not process.is_alive()


class Slow(PendulumEnv):
    """Its steps take a minute."""

    def step(self, action):
        time.sleep(60)
        return super().step(action)


def test_an_interrupt_within_a_step_leaves_nothing_to_wait_for(workers):
    env = workers(PendulumEnv, Slow)
    env.reset()
    env.step_async(np.zeros((2, 1), np.float32))
    begin = time.monotonic()
    env.close()
    assert time.monotonic() - begin < 5
    env.processes[1].join(timeout=5)
    assert not env.processes[1].is_alive()


def test_an_end_beside_a_lost_process_says_what_it_is_the_end_of(workers):
    env = workers(PendulumEnv)
    env.processes[0].kill()
    env.processes[0].join()
    env.close()  # SB3's raises here, in place of what ended training


def test_attributes_are_those_of_the_environment(workers):
    env = workers(PendulumEnv)
    env.reset()
    assert env.get_attr("state")[0].shape == (2,)


def test_a_process_that_is_lost_before_a_checkpoint_is_no_environment_that_cannot_be_saved(tmp_path):
    model = build("PPO", env=Workers([PendulumEnv]), n_steps=8)
    model.env.processes[0].kill()
    with pytest.raises(WorkerLost, match="killed by SIGKILL"):
        save_checkpoint(model, tmp_path / "step_0", TrainingClock(), [])
    assert not list(tmp_path.iterdir())


class Unmade(PendulumEnv):
    """An environment whose constructor fails."""

    def __init__(self):
        raise ValueError("no room for a pendulum")


def test_one_that_cannot_be_made_ends_with_an_error():
    with pytest.raises(WorkerLost, match=r"process 1 of 1 \(its error stands above\)"):
        Workers([Unmade])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_for_the_process_that_trains(workers, number):
    env = workers(PendulumEnv)
    env.reset()
    os.kill(env.processes[0].pid, number)
    assert env.step(np.zeros((1, 1), np.float32))[1].shape == (1,)


def test_a_run_says_what_was_lost_and_goes_on(tmp_path, capsys):
    words = ["--env", "tests.experiments.test_workers:Doomed", "--env-set", f"marker={tmp_path / 'killed'}"]
    words += ["--agent", "flow-ppo", "--num-envs", "2", "--vec-env", "subproc", "--steps", "256", "--eval-every", "0"]
    words += ["--set", "n_steps=32", "--set", "policy_kwargs.net_arch=[16]", "--checkpoint-every", "64"]
    assert main([*words, "--logdir", str(tmp_path), "--no-progress"]) == 75
    message = capsys.readouterr().err.splitlines()[-1]
    assert "Doomed-v0" in message and re.search(r"process [12] of 2 \(killed by SIGKILL\), at step 1\d\d", message)
    assert "go on from step_128" in message
    (path,) = tmp_path.glob("*/*/*")
    assert main(["--resume", str(path), "--no-progress"]) == 0
    assert "done: 256 steps" in capsys.readouterr().out


def test_a_process_that_ends_without_closing_them_ends_them():
    code = (
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "from experiments.training.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    env = Workers([PendulumEnv])\n"
        "    print(env.processes[0].pid)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(ended.stdout), 0)
            time.sleep(0.05)


def test_how_it_is_stepped_cannot_change(tmp_path, capsys):
    assert main(["--resume", str(tmp_path), "--vec-env", "subproc"]) == 2
    assert "--vec-env cannot change" in capsys.readouterr().err
