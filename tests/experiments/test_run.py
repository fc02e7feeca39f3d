"""`experiments/run.py`: what a run writes, how it resumes, stops and fails."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from rich.console import Console
from stable_baselines3 import PPO, SAC
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import flowrl
from agents import AGENTS
from experiments.evaluate import main as evaluate_main
from experiments.run import main, parse_arguments
from experiments.training import training
from experiments.training.callbacks import Interruption
from experiments.training.clock import TrainingClock
from experiments.training.errors import TrainingError
from experiments.training.evaluation import Evaluation
from experiments.training.lessons import missing_lessons
from experiments.training.progress import ProgressDisplay
from experiments.training.replay_files import has_replay_buffer
from experiments.training.run_directory import RunDirectory
from experiments.training.tables import read_csv

ROOT = Path(__file__).resolve().parents[2]
# Not so where the tests run as if flowrl/kernels were not there.
HAS_COMPILER = (
    shutil.which(os.environ.get("CC", "cc")) is not None and sys.modules.get("flowrl.kernels", ...) is not None
)
SMALL = {
    "sac": ("learning_starts=50", "batch_size=32", "policy_kwargs.net_arch=[16,16]"),
    "ppo": ("n_steps=64", "n_epochs=2", "policy_kwargs.net_arch=[16,16]"),
    "bc": ("policy_kwargs.net_arch=[16,16]",),
    "nfac": ("learning_starts=50", "batch_size=32", "policy_kwargs.net_arch=[16,16]"),
    "nfq": ("learning_starts=50", "batch_size=32", "policy_kwargs.net_arch=[16,16]"),
}
# SAC stops where it is told to; PPO at the end of a rollout.
STEPS = {"sac": 200, "ppo": 256, "nfac": 200, "nfq": 200}
SHORT_EPISODES = ("--env-set", "max_episode_steps=20")


def train(logdir, agent, *more, steps=None, seed=0):
    """Train a small agent on Pendulum for a moment, and return its run directory."""
    kind = "ppo" if agent == "snf" else agent.removeprefix("flow-")
    of_data = ("learning_starts",) if "--demos" in more else ()  # what a data set says itself
    settings = [word for setting in SMALL[kind] if not setting.startswith(of_data) for word in ("--set", setting)]
    before = set(logdir.glob("*/*/*"))
    command = ["--env", "Pendulum", "--agent", agent, "--steps", str(steps or STEPS[kind]), "--seed", str(seed)]
    code = main([*command, "--logdir", str(logdir), "--eval-episodes", "1", "--no-progress", *settings, *more])
    assert code == 0
    (path,) = set(logdir.glob("*/*/*")) - before
    return path


@pytest.fixture(scope="module", params=["flow-sac", "ppo"])
def run(request, tmp_path_factory):
    """A finished run, of a flow and off-policy, of a Gaussian and on-policy: the agent's name and the directory."""
    return request.param, train(tmp_path_factory.mktemp("runs"), request.param, "--eval-every", "150")


def test_plain_is_stable_baselines3s_own_update_and_stays_so_on_resume(tmp_path, monkeypatch):
    path = train(tmp_path, "flow-sac", "--plain", "--eval-every", "0", steps=60)
    assert RunDirectory.open(path).config["plain"] is True
    seen = []
    monkeypatch.setattr(SAC, "train", lambda self, *_, **__: seen.append(type(self)))
    assert main(["--resume", str(path), "--steps", "70"]) == 0
    assert set(seen) == {SAC}


def test_the_environments_options_are_in_the_configuration_and_in_every_environment(tmp_path, monkeypatch):
    made = []
    make = gym.make
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: made.append(kwargs) or make(*args, **kwargs))
    path = train(tmp_path, "flow-sac", "--env-set", "g=3.5", "--eval-every", "30", steps=60)
    assert RunDirectory.open(path).config["environment"]["kwargs"] == {"g": 3.5}
    assert main(["--resume", str(path), "--steps", "70"]) == 0
    evaluate_main([str(path), "--episodes", "1"])
    assert len(made) > 3 and all(kwargs == {"g": 3.5} for kwargs in made)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), 1),
        (("--num-envs", "4"), 4),
        (("--num-envs", "4", "--set", "gradient_steps=2"), 2),
        (("--num-envs", "2", "--set", "gradient_steps=-1"), -1),
    ],
    ids=str,
)
def test_sac_updates_as_often_a_step_however_many_environments(tmp_path, more, expected):
    config = RunDirectory.open(train(tmp_path, "flow-sac", "--eval-every", "0", *more, steps=60)).config
    assert config["hyperparameters"]["gradient_steps"] == expected


def events(path):
    accumulator = EventAccumulator(str(path), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


# -- what a run writes ----------------------------------------------------------------------------------------------


def test_run_directory_is_complete(run):
    agent, path = run
    assert path.parent.parent.name == "Pendulum-v1" and path.parent.name == agent
    names = {file.name for file in path.iterdir()}
    assert {"config.json", "progress.csv", "evaluations.csv", "best_model.zip", "last_model.zip"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(name.startswith(".") for name in names), "unfinished files were left behind"


def test_config_says_how_to_reproduce_the_run(run):
    agent, path = run
    config = json.loads((path / "config.json").read_text())
    assert config["agent"] == agent and config["environment"]["id"] == "Pendulum-v1" and config["seed"] == 0
    assert config["hyperparameters"]["policy_kwargs"]["net_arch"] == [16, 16]
    assert config["flow"] == {"flow-sac": "triangular", "flow-ppo": "affine"}.get(agent)
    (session,) = config["sessions"]
    assert session["device"] == "cpu" and session["threads"] >= 1 and "git" in session
    assert session["versions"]["stable-baselines3"] and session["versions"]["torch"]
    assert session["updates"][0]["step"] == 0 and session["updates"][0]["form"] in ("C", "torch", "SB3")


def test_evaluations_are_recorded(run):
    _, path = run
    rows = RunDirectory.open(path).evaluations()
    # Four environments step at once in PPO; the model that training ends with is evaluated too.
    assert [row["step"] for row in rows] == ([150, 200] if "sac" in run[0] else [152, 256])
    for row in rows:
        assert row["min_return"] <= row["mean_return"] <= row["max_return"]
        assert row["sampled_mean_return"] != row["mean_return"]
        assert row["steps_per_second"] > 0 and row["episodes"] == 1 and row["training_seconds"] <= row["wall_seconds"]


def test_tensorboard_has_the_curves_and_pictures(run):
    agent, path = run
    tags = events(path).Tags()
    expected = {"flow/entropy", "flow/saturation", "eval/mean_reward", "time/steps_per_second"}
    expected |= {"train/grad_norm_actor", "train/grad_norm_critic", "eval/sampled_mean_reward"}
    if agent.startswith("flow"):
        expected |= {"flow/log_det_min", "flow/log_det_max"}
    assert expected <= set(tags["scalars"])
    assert tags["images"] == ["flow/action_density"]


def test_progress_csv_has_the_same_scalars(run):
    _, path = run
    columns = set(read_csv(path / "progress.csv")[0])
    assert set(events(path).Tags()["scalars"]) <= columns


def test_models_load_without_this_repository(run):
    agent, path = run
    model = (SAC if agent.endswith("sac") else PPO).load(path / "last_model.zip")
    action, _ = model.predict(np.zeros(3, dtype=np.float32), deterministic=True)
    assert action.shape == (1,)
    assert isinstance(model.policy, flowrl.policies.ActionDensity) == agent.startswith("flow")


@pytest.mark.parametrize("observation", ["flat", "dict"])
def test_several_tasks_have_their_returns_logged(tmp_path, observation):
    settings = ("--env-set", f"observation={observation}", "--eval-episodes", "8", "--eval-every", "200")
    path = train(tmp_path, "nfac", "--env", "MultiTask", *settings)
    rows = read_csv(path / "progress.csv")
    logged = {key for row in rows for key, value in row.items() if value}
    tasks = ("goal_5_0", "goal_-5_0", "goal_0_5", "goal_0_-5")
    assert {f"tasks/{task}/{name}" for task in tasks for name in ("return", "success")} <= logged
    assert sum(f"tasks/{task}/eval_return" in logged for task in tasks) >= 2
    assert json.loads((path / "config.json").read_text())["hyperparameters"]["policy_kwargs"]["normalize_observations"]


def test_same_seed_same_run(tmp_path):
    runs = [train(tmp_path, "flow-sac", "--eval-every", "0", steps=80, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (weights(SAC.load(path / "last_model.zip")) for path in runs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_evaluations_do_not_change_training(tmp_path):
    with_them = train(tmp_path, "flow-sac", "--eval-every", "50", steps=80)
    without = train(tmp_path, "flow-sac", "--eval-every", "0", steps=80)
    assert not (without / "evaluations.csv").exists()
    first, second = (weights(SAC.load(path / "last_model.zip")) for path in (with_them, without))
    assert torch.equal(first, second)


def test_flow_and_settings_reach_the_policy(tmp_path):
    path = train(tmp_path, "flow-sac", "--flow", "radial", "--set", "gamma=0.5", "--eval-every", "0", steps=20)
    model = SAC.load(path / "last_model.zip")
    assert model.gamma == 0.5 and model.policy_kwargs["flow"] == "radial"
    assert json.loads((path / "config.json").read_text())["flow"] == "radial"


@pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler: install gcc")
@pytest.mark.parametrize("agent", ["flow-sac", "flow-ppo"])
@pytest.mark.parametrize("flow", [flowrl.DEFAULT_FLOW, "gaussian"])
def test_the_update_runs_in_c_under_all_that_a_run_attaches(tmp_path, monkeypatch, capsys, agent, flow):
    forms, save = [], RunDirectory.save_model

    def look(self, model, which):
        forms.append(getattr(model, "update_form", "SB3"))
        save(self, model, which)

    monkeypatch.setattr(RunDirectory, "save_model", look)
    more = ("--eval-every", "60", "--checkpoint-every", "60", *SHORT_EPISODES)
    path = train(tmp_path, agent, "--flow", flow, *more, steps=120)
    assert set(forms) == {"C"}
    assert f"{agent} with {flow} on Pendulum-v1" in capsys.readouterr().out
    assert RunDirectory.open(path).config["sessions"][0]["updates"] == [dict(step=0, form="C", reason="")]


# -- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["flow-sac", "flow-ppo", "snf"])
def test_resume_goes_on_where_the_run_ended(tmp_path, agent):
    more = ("--num-envs", "1", "--eval-every", "400", *SHORT_EPISODES)
    path = train(tmp_path, agent, "--set", "normalize=True", *more, steps=120 if agent == "flow-sac" else 64)
    run = RunDirectory.open(path)
    algorithm = AGENTS[agent].algorithm
    before = algorithm.load(path / "last_model.zip")
    total = 2 * before.num_timesteps
    assert main(["--resume", str(path), "--steps", str(total)]) == 0

    after = algorithm.load(path / "last_model.zip")
    assert after.num_timesteps == total and after._n_updates > before._n_updates
    steps = [row["step"] for row in run.evaluations()]
    assert steps == sorted(set(steps)) and steps[-1] == total
    logged = [int(row["time/total_timesteps"]) for row in run.progress()]
    assert logged == sorted(logged) and logged[0] <= before.num_timesteps < logged[-1]
    assert [session["from_step"] for session in run.config["sessions"]] == [0, before.num_timesteps]


def test_resume_restores_weights_optimiser_replay_buffer_and_normalization(tmp_path):
    from experiments.training.environments import Environment, make_vector_environment

    path = train(tmp_path, "sac", "--set", "normalize=True", "--eval-every", "0")
    env = make_vector_environment(Environment("Pendulum-v1", "Pendulum"), 1, normalize=True, gamma=0.99)
    model = RunDirectory.open(path).load_checkpoint(SAC, None, lambda: env, "cpu")
    last = SAC.load(path / "last_model.zip")
    assert torch.equal(weights(model), weights(last))
    moments = [model.critic.optimizer.state_dict()["state"][0]["exp_avg"] for model in (model, last)]
    assert torch.equal(*moments) and moments[0].abs().sum() > 0
    assert model.replay_buffer.pos == 200 and not model.replay_buffer.full
    assert model.replay_buffer.observations[:200].any(axis=(1, 2)).all()
    assert not model.replay_buffer.observations[200:].any()
    assert model.get_vec_normalize_env().obs_rms.count > 150, "the statistics of 200 steps"


def test_resume_drops_what_was_recorded_after_the_checkpoint(tmp_path, capsys):
    path = train(tmp_path, "sac", "--checkpoint-every", "40", "--eval-every", "40", *SHORT_EPISODES, steps=120)
    run = RunDirectory.open(path)
    assert [checkpoint.name for checkpoint in run.checkpoints()] == ["step_40", "step_80", "step_120"]
    assert [has_replay_buffer(checkpoint) for checkpoint in run.checkpoints()] == [False, True, True]
    assert main(["--resume", str(path / "checkpoints" / "step_40"), "--steps", "100"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "no replay buffer" in message
    assert message.endswith(f"--resume {path / 'checkpoints' / 'step_120'}\n")
    assert main(["--resume", str(path / "checkpoints" / "step_80"), "--steps", "100", "--eval-every", "20"]) == 0
    assert [row["step"] for row in run.evaluations()] == [40, 80, 100]
    assert [event.step for event in events(path).Scalars("eval/mean_reward")] == [40, 80, 100]
    assert [checkpoint.name for checkpoint in run.checkpoints()] == ["step_40", "step_80", "step_100"]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def with_checkpoints(tmp_path_factory):
    """A finished run with a checkpoint every 20 steps, whose replay buffers are in several files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.training.replay_files.ROWS", 10)
        return train(tmp_path_factory.mktemp("runs"), "sac", "--checkpoint-every", "20", "--eval-every", "0", steps=100)


@pytest.fixture
def copy(with_checkpoints, tmp_path):
    """Of that run."""
    return Path(shutil.copytree(with_checkpoints, tmp_path / "run"))


@pytest.mark.parametrize("name", ["model.zip", "replay_buffer", "environment.pkl", "continuation.pkl"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(copy, capsys, name, monkeypatch):
    monkeypatch.setattr("experiments.training.replay_files.ROWS", 10)
    path = copy
    newest, before = path / "checkpoints" / "step_100", path / "checkpoints" / "step_80"
    for file in (newest / name).iterdir() if (newest / name).is_dir() else [newest / name]:
        flip_a_byte(file)
    assert main(["--resume", str(newest), "--steps", "200"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and name in message and f"--resume {before}" in message
    assert main(["--resume", str(path), "--steps", "110"]) == 0
    assert f"warning: the checkpoint {newest} is damaged ({name}" in capsys.readouterr().err
    sessions = json.loads((path / "config.json").read_text())["sessions"]
    assert sessions[-1]["from_step"] == 80 and RunDirectory.open(path).checkpoints()[-1].name == "step_110"


def test_a_truncated_or_missing_file_is_damage_too(copy, capsys):
    path = copy
    newest, before = RunDirectory.open(path).checkpoints()[:-3:-1]
    (newest / "model.zip").write_bytes((newest / "model.zip").read_bytes()[:1000])
    (before / "seconds.json").unlink()
    assert main(["--resume", str(path), "--steps", "110"]) == 2, "there is none that is not damaged"
    error = capsys.readouterr().err
    assert "model.zip is not as it was written" in error and "seconds.json is missing" in error


def test_resume_of_a_finished_run_says_how_to_train_on(run, capsys):
    _, path = run
    assert main(["--resume", str(path)]) == 2
    assert "--steps" in capsys.readouterr().err


def test_sigterm_is_an_interruption_too():
    with Interruption(lambda: None) as interruption:
        signal.raise_signal(signal.SIGTERM)
    assert interruption.requested


def test_interruption_saves_and_says_how_to_resume(tmp_path):
    command = [sys.executable, "experiments/run.py", "--env", "Pendulum", "--agent", "sac", "--logdir", str(tmp_path)]
    command += ["--steps", "2000", "--set", "policy_kwargs.net_arch=[16,16]", "--eval-every", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/*/*/progress.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)  # now it is training
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    (path,) = tmp_path.glob("*/*/*")
    assert f"python experiments/run.py --resume {path}" in output
    assert errors == ""
    (checkpoint,) = RunDirectory.open(path).checkpoints()
    step = int(checkpoint.name.removeprefix("step_"))
    assert step > 0
    assert main(["--resume", str(path), "--steps", str(step + 5)]) == 0
    assert SAC.load(path / "last_model.zip").num_timesteps == step + 5


def test_an_interruption_after_the_last_step_waits_for_the_end(tmp_path, monkeypatch):
    evaluate = Evaluation.evaluate

    def and_ctrl_c(self):
        signal.raise_signal(signal.SIGINT)
        evaluate(self)

    monkeypatch.setattr(Evaluation, "evaluate", and_ctrl_c)
    path = train(tmp_path, "flow-sac", "--eval-every", "60", steps=60)
    run = RunDirectory.open(path)
    assert run.evaluations()[-1]["step"] == 60 and run.checkpoints()[-1].name == "step_60"


def test_a_last_evaluation_that_fails_loses_nothing_and_is_made_up_for(tmp_path, monkeypatch):
    def fail(self):
        raise TrainingError("the screen is dark")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "evaluate", fail)
        with pytest.raises(AssertionError):  # train's, of the exit code
            train(tmp_path, "flow-sac", "--eval-every", "100", steps=60)
    (path,) = tmp_path.glob("*/*/*")
    run = RunDirectory.open(path)
    assert not run.evaluations() and run.checkpoints()[-1].name == "step_60"
    assert main(["--resume", str(path), "--no-progress"]) == 0
    assert [row["step"] for row in run.evaluations()] == [60]
    assert (path / "best_model.zip").exists() and main(["--resume", str(path)]) == 2


def test_the_best_model_is_that_of_the_evaluations_that_are_left(tmp_path, monkeypatch):
    returns = iter([500.0, 600.0, 100.0])
    monkeypatch.setattr(Evaluation, "_play", lambda *_, **__: (np.full(2, heights[0]), np.full(2, 20.0), [None, None]))
    heights = [next(returns)]
    path = train(tmp_path, "flow-sac", "--eval-every", "60", "--checkpoint-every", "60", steps=60)
    heights[0] = next(returns)
    assert main(["--resume", str(path), "--steps", "120", "--no-progress"]) == 0
    assert SAC.load(path / "best_model.zip").num_timesteps == 120
    heights[0] = next(returns)
    assert main(["--resume", str(path / "checkpoints" / "step_60"), "--steps", "90", "--no-progress"]) == 0
    assert SAC.load(path / "best_model.zip").num_timesteps == 60
    assert RunDirectory.open(path).best_return() == 500.0


class Aimed(gym.Wrapper):
    """Whose task is an array."""

    def step(self, action):
        *rest, info = self.env.step(action)
        return *rest, dict(info, task=np.array([1, 0]))


def test_tasks_may_be_named_by_anything(tmp_path, monkeypatch):
    made = EnvSpec("Aimed-v0", lambda: Aimed(gym.make("Pendulum-v1")), max_episode_steps=20)
    monkeypatch.setitem(gym.registry, "Aimed-v0", made)
    path = train(tmp_path, "flow-sac", "--env", "Aimed-v0", "--eval-every", "40", steps=40)
    assert any(row.get("tasks/[1 0]/eval_return") for row in read_csv(path / "progress.csv"))


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--env", "HalfCheeta"], "HalfCheetah"),
        (["--env", "Pendulum-v9"], "Pendulum-v1"),
        (["--env", "no_such_module:Thing-v0"], "PYTHONPATH="),
        (["--env", "CartPole"], "Discrete"),
        (["--env", "LunarLander"], "LunarLanderContinuous"),
        (["--env", "HalfCheetah-v3"], "HalfCheetah-v5"),
        (["--env", "Pendulum", "--env-set", "gravity=1"], "gravity=1"),
        (["--env", "Pendulum", "--agent", "flow-sca"], "flow-sac"),
        (["--env", "Pendulum", "--flow", "realnpv"], "realnvp"),
        (["--env", "Pendulum", "--agent", "sac", "--flow", "nsf"], "flow-sac"),
        (["--env", "Pendulum", "--flow", "nsf", "--set", "policy_kwargs.flow=realnvp"], "drop one"),
        (["--env", "Pendulum", "--agent", "nfq", "--demos", "x", "--set", "gradient_steps=7"], "one update"),
        (["--resume", "runs", "--logdir", "elsewhere"], "--logdir"),
        (["--env", "Pendulum", "--set", "learning_rat=1"], "learning_rate"),
        (["--env", "Pendulum", "--set", "policy_kwargs.net_arc=1"], "policy_kwargs.net_arch"),
        (["--env", "Pendulum", "--set", "batch_size"], "key=value"),
        (["--env", "Pendulum", "--set", "batch_size=big"], "int"),
        (["--env", "Pendulum", "--set", "policy_kwargs.net_arch=64"], "list"),
        (["--env", "Pendulum", "--agent", "ppo", "--set", "batch_size=1"], "batch_size"),
        (["--env", "Pendulum", "--num-envs", "2", "--set", "train_freq=(1,'episode')"], "--num-envs 1"),
        (["--resume", "no/such/run"], "no/such/run"),
        (["--resume", "runs", "--agent", "sac"], "--agent"),
        (["--resume", "runs", "--env-set", "g=1"], "--env-set"),
        *([(["--env", "Pendulum", "--device", "cuda"], "CUDA")] if not torch.cuda.is_available() else []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gives_one_line_and_exit_code_2(tmp_path, capsys, arguments, expected):
    logdir = [] if "--resume" in arguments else ["--logdir", str(tmp_path)]
    assert main([*arguments, *logdir]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert expected in message
    assert not list(tmp_path.iterdir()), "nothing is written for a run that never starts"


@pytest.mark.parametrize("arguments", [[], ["--env", "Pendulum", "--steps", "0"], ["--env", "Pendulum", "--seed", "x"]])
def test_argparse_refuses(arguments):
    with pytest.raises(SystemExit) as error:
        parse_arguments(arguments)
    assert error.value.code == 2


def test_numbers_may_be_written_as_people_write_them():
    assert (
        parse_arguments(["--env", "x", "--steps", "1e5"]).steps
        == parse_arguments(["--env", "x", "--steps", "100_000"]).steps
    )


@pytest.mark.parametrize(("agent", "saved"), [("flow-sac", 120), ("flow-ppo", 64)])
def test_nan_observation_saves_and_names_environment_step_and_cure(agent, saved, tmp_path, capsys):
    """PPO has learned from whole rollouts of 64 steps."""
    arguments = ["--env", "experiments.studies.nan_pendulum:NanPendulum", "--agent", agent, "--eval-every", "0"]
    arguments += [word for setting in SMALL[agent.removeprefix("flow-")] for word in ("--set", setting)]
    assert main([*arguments, "--num-envs", "1", "--logdir", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "nan" in message and "--resume" in message
    assert "NanPendulum-v0" in message and "step 120" in message and f"go on from step {saved}" in message
    (path,) = tmp_path.glob("*/*/*")
    (checkpoint,) = RunDirectory.open(path).checkpoints()
    assert checkpoint.name == f"step_{saved}"


class Unready(gym.Wrapper):
    """Whose first observations are NaN from some time on, in episodes of evaluation or in all."""

    since_when = "never"
    generator = (_ for _ in ())  # which no checkpoint can hold

    def __init__(self, env):
        super().__init__(env)
        self.unsaved = self.generator

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        is_evaluation = seed is not None and seed > 1_000_000
        is_ready = self.since_when == "never" or (self.since_when == "evaluation" and not is_evaluation)
        return observation if is_ready else observation * np.nan, info


@pytest.mark.parametrize("agent", ["flow-sac", "ppo"])
def test_nan_where_nothing_is_being_collected_loses_no_steps(agent, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(gym.registry, "Unready-v0", EnvSpec("Unready-v0", lambda: Unready(gym.make("Pendulum-v1"))))
    path = train(tmp_path, agent, "--env", "Unready-v0", "--eval-every", "0", *SHORT_EPISODES, steps=64)
    run = RunDirectory.open(path)
    resume = ["--resume", str(path), "--no-progress"]
    monkeypatch.setattr(Unready, "since_when", "now")
    assert main([*resume, "--steps", "128"]) == 1
    assert "go on from step 64," in capsys.readouterr().err
    assert [checkpoint.name for checkpoint in run.checkpoints()] == ["step_64"]
    monkeypatch.setattr(Unready, "since_when", "evaluation")
    assert main([*resume, "--steps", "128", "--eval-every", "1000"]) == 1
    assert "go on from step 128," in capsys.readouterr().err
    assert [checkpoint.name for checkpoint in run.checkpoints()] == ["step_64", "step_128"]
    monkeypatch.setattr(Unready, "since_when", "never")
    assert main(resume) == 0 and [row["step"] for row in run.evaluations()] == [128]


def test_diverged_weights_are_not_saved_and_the_error_names_the_last_sound_checkpoint(tmp_path, capsys, monkeypatch):
    from flowrl.algorithms import SAC

    healthy = SAC.train

    def diverge(self, *args, **kwargs):
        healthy(self, *args, **kwargs)
        if self.num_timesteps == 75:
            for parameter in self.critic.parameters():  # unlike NaN in the actor, nothing else notices them
                parameter.data.fill_(float("nan"))

    monkeypatch.setattr(SAC, "train", diverge)
    arguments = ["--env", "Pendulum", "--agent", "flow-sac", "--eval-every", "40", "--checkpoint-every", "20"]
    arguments += [word for setting in SMALL["sac"] for word in ("--set", setting)]
    assert main([*arguments, "--eval-episodes", "1", "--logdir", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "learning_rate" in message and "step_60" in message
    for saved in tmp_path.glob("*/*/*/**/*.zip"):
        assert torch.isfinite(weights(SAC.load(saved))).all()


def test_no_traceback_from_the_command_line(tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), "--config", "none.yaml"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: none.yaml")
    assert finished.stderr.count("\n") == 1


# -- listing --------------------------------------------------------------------------------------------------------


def test_list_names_agents_flows_and_environments(capsys):
    assert main(["--list"]) == 0
    output = capsys.readouterr().out
    for name in (
        *AGENTS,
        *flowrl.available_flows(),
        "HalfCheetah-v5",
        "MountainCarContinuous-v0",
        "flowrl/ReturnChain-v0",
    ):
        assert name in output
    assert "layers=2, bins=8, bound=4.0, hidden=(64, 64)" in output and "(the default of flow-ppo)" in output


def test_a_reader_who_leaves_ends_the_list_in_silence(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert main(["--list"]) == 0
    assert capsys.readouterr().err == ""


def test_csv_stays_readable_when_columns_appear_after_a_resume(tmp_path):
    run = RunDirectory(tmp_path)
    for step, names in ((1, "a"), (2, "ab"), (3, "abc")):
        logger = run.logger()
        for name in names:
            logger.record(name, step)
        logger.record("time/total_timesteps", step)
        logger.dump(step)
        logger.close()
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["a"], row["b"], row["c"]) for row in rows] == [("1", "", ""), ("2", "2", ""), ("3", "3", "3")]


# -- what the screen shows ------------------------------------------------------------------------------------------


def test_progress_shows_phase_return_speed_and_time_left(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=240, policy_kwargs=dict(net_arch=[8]))
    with ProgressDisplay(250, TrainingClock(), console, bar=True) as progress:
        model.learn(250, callback=progress)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "random actions" in shown
    assert re.search(r"learning .*250/250 return -\d+\.\d [\d,]+ steps/s 0:00:00 left", shown)


@pytest.mark.parametrize(
    ("agent", "config", "expected"),
    [
        ("sac", dict(steps=100), "nothing will be learned: the first 100 steps"),
        ("sac", dict(steps=101), None),
        ("sac", dict(steps=101, eval_every=102), "only the last model is evaluated"),
        ("sac", dict(steps=300, critic_warmup=300), "the actor will not learn"),
        ("ppo", dict(steps=63), "the run goes on to step 64, and learns but once"),
        ("ppo", dict(steps=64), None),
    ],
    ids=str,
)
def test_a_run_that_will_not_learn_says_so(agent, config, expected):
    more = dict(n_steps=64) if agent == "ppo" else dict(learning_starts=0 if "critic_warmup" in config else 100)
    model = {"sac": SAC, "ppo": PPO}[agent]("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), **more)
    warnings = list(missing_lessons(dict(eval_every=0) | config, model, config["steps"]))
    assert len(warnings) == (expected is not None) and all(expected in warning for warning in warnings)


def test_a_run_in_which_nothing_was_learned_says_so_at_its_end(tmp_path, capsys):
    train(tmp_path, "sac", "--eval-every", "0", steps=40)
    shown = capsys.readouterr().out
    assert shown.index("warning: nothing will be learned") < shown.index("warning: nothing was learned")


@pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler: install gcc")
def test_a_fall_back_is_recorded_and_shown_once(tmp_path, capsys, caplog, monkeypatch):
    from flowrl.algorithms import SAC

    def train_under_a_hook(self, **kwargs):
        if self.num_timesteps == 60:
            self.actor.optimizer.register_step_pre_hook(lambda *_: None)
        update(self, **kwargs)

    update = SAC.train
    monkeypatch.setattr(SAC, "train", train_under_a_hook)
    config = RunDirectory.open(train(tmp_path, "flow-sac", "--eval-every", "0", steps=80)).config
    first, second = config["sessions"][0]["updates"]
    assert config["update"] == "C then torch" and (first["form"], second["form"]) == ("C", "torch")
    assert first["reason"] == "" and "hook" in second["reason"] and 60 <= second["step"] <= 70
    assert "update: in C" in capsys.readouterr().out
    (record,) = caplog.records
    assert second["reason"] in record.message


def test_matrices_are_multiplied_as_asked_and_in_this_run_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "missing_lessons", lambda *_: seen.append(torch.get_float32_matmul_precision()) or [])
    words = ["--steps", "40", "--eval-every", "0", "--set", "learning_starts=10", "--no-progress"]
    run = ["--env", "Pendulum", "--agent", "flow-sac", "--logdir", str(tmp_path), *words]
    assert main([*run, "--matmul-precision", "medium"]) == 0
    (path,) = tmp_path.glob("*/*/*")
    assert RunDirectory.open(path).config["matmul_precision"] == "medium"
    assert main(["--resume", str(path), "--steps", "60", "--no-progress"]) == 0
    assert seen == ["medium", "medium"] and torch.get_float32_matmul_precision() == "highest"
    assert main(["--resume", str(path), "--steps", "80", "--matmul-precision", "highest"]) == 2
