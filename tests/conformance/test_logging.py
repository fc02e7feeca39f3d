"""What is logged, under which names, and into which files."""

import csv
import json

import numpy as np
import pytest
from stable_baselines3.common.logger import KVWriter, configure
from stable_baselines3.common.monitor import Monitor

from tests.conformance.learners import GAUSSIAN, STEPS
from tests.environments import Aim

OF_GAUSSIANS = {"train/std"}
"""What a flow has none of: one deviation for all states."""


class Names(KVWriter):
    """An output of the logger that remembers the names, and which of them tensorboard does without."""

    def __init__(self):
        self.names = set()

    def write(self, values, excluded, step=0):
        self.names |= {(name, tuple(excluded[name] or ())) for name in values}

    def close(self):
        pass


def logged(model) -> set:
    """What a model logs of some short episodes."""
    names = Names()
    model.set_logger(logger := configure(None, []))
    logger.output_formats.append(names)
    model.learn(2 * STEPS, log_interval=1)
    return names.names


def test_the_names_are_those_of_the_gaussian(learner):
    """Further ones of flowrl's own algorithms apart."""
    model = learner.make(Monitor(Aim(horizon=5)))
    settings = learner.settings | dict(seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]))
    gaussian = learner.like(GAUSSIAN["FlowPolicy"], Monitor(Aim(horizon=5)), **settings)
    ours, theirs = logged(model), logged(gaussian)
    expected = {(name, hidden) for name, hidden in theirs if name not in OF_GAUSSIANS | learner.without}
    assert {"rollout/ep_rew_mean", "time/total_timesteps", "train/learning_rate"} <= {name for name, _ in ours}
    assert expected <= ours
    if learner.algorithm is learner.like and not learner.gaussian:
        assert ours == expected


def test_tables_of_every_kind(learner, tmp_path):
    model = learner.make(Monitor(Aim(horizon=5)))
    model.set_logger(configure(str(tmp_path), ["csv", "json", "log", "tensorboard"]))
    model.learn(2 * STEPS, log_interval=1)
    rows = list(csv.DictReader((tmp_path / "progress.csv").open()))
    lines = [json.loads(line) for line in (tmp_path / "progress.json").open()]
    assert len(rows) == len(lines) > 1
    assert float(rows[-1]["time/total_timesteps"]) == lines[-1]["time/total_timesteps"] > 0
    assert "ep_rew_mean" in (tmp_path / "log.txt").read_text()
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_each_run_has_a_folder_for_tensorboard(learner, tmp_path):
    model = learner.make(tensorboard_log=str(tmp_path))
    model.learn(STEPS, tb_log_name="run")
    model.learn(STEPS, tb_log_name="run")
    model.learn(STEPS, tb_log_name="run", reset_num_timesteps=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run_1", "run_2"]


def test_a_table_on_the_screen(learner, capsys):
    learner.make(Monitor(Aim(horizon=5)), verbose=1).learn(2 * STEPS, log_interval=1)
    said = capsys.readouterr().out
    assert "Using cpu device" in said and "| rollout/" in said and "total_timesteps" in said


class Succeeding(Aim):
    """Every episode is a success."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | dict(is_success=True)


def test_successes_and_the_window_of_episodes(learner):
    model = learner.make(Monitor(Succeeding(horizon=2)), stats_window_size=3)
    model.learn(2 * STEPS, log_interval=10_000)
    assert len(model.ep_info_buffer) == len(model.ep_success_buffer) == 3
    assert np.mean(model.ep_success_buffer) == 1.0
    model.dump_logs() if learner.off_policy else model.dump_logs(1)
    assert "rollout/success_rate" in {name for name, _ in logged(model)}


@pytest.mark.parametrize("interval", [1, 2])
def test_the_interval_of_logs(on_policy, interval, tmp_path):
    model = on_policy.make()
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(4 * model.n_steps, log_interval=interval)
    assert len((tmp_path / "progress.json").read_text().splitlines()) == 4 // interval
