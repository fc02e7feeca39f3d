"""`--agent snf`: on each base, with its hyperparameters, from the command line to the last model."""

import pytest

from experiments.run import main
from experiments.training.run_directory import RunDirectory
from flowrl.algorithms.snf import on_base
from tests.experiments.test_run import HAS_COMPILER

SMALL = ["policy_kwargs.net_arch=[16,16]", "policy_kwargs.flow_kwargs={'hidden':(8,)}"]
ROLLOUT = {
    "ppo": ["n_steps=16", "n_epochs=2"],
    "a2c": ["n_steps=8"],
    "trpo": ["n_steps=16", "n_critic_updates=2", "cg_max_steps=3"],
}


def snf(logdir, *more, base="ppo", steps=128):
    settings = [*SMALL, *ROLLOUT[base], f"base={base}"]
    command = ["--env", "Pendulum", "--agent", "snf", "--flow", "nsf", "--steps", str(steps), "--eval-episodes", "1"]
    command += ["--env-set", "max_episode_steps=20"]
    command += [word for setting in settings for word in ("--set", setting)]
    return main([*command, "--logdir", str(logdir), "--no-progress", "--eval-every", "64", *more])


@pytest.mark.parametrize("base", ROLLOUT)
def test_it_trains_evaluates_saves_and_resumes(tmp_path, base):
    assert snf(tmp_path, base=base) == 0
    (path,) = tmp_path.glob("*/*/*")
    run = RunDirectory.open(path)
    config = run.config
    assert config["agent"] == "snf" and config["hyperparameters"]["base"] == base and config["update"] != "C"
    assert len(run.evaluations()) >= 2
    model = on_base("ppo").load(path / "last_model.zip")
    assert type(model) is on_base(base) and model.policy.noise_layers == 1
    assert main(["--resume", str(path), "--steps", "192", "--no-progress"]) == 0
    assert on_base(base).load(path / "last_model.zip").num_timesteps >= 192
    assert len(run.progress()) >= 2 and "flow/entropy_bound" in run.progress()[-1]


@pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler")
def test_without_noise_layers_its_update_is_in_c(tmp_path):
    assert snf(tmp_path, "--set", "policy_kwargs.noise_layers=0", steps=64) == 0
    (path,) = tmp_path.glob("*/*/*")
    assert RunDirectory.open(path).config["update"] == "C"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "base=sac"), "base must be 'ppo', 'a2c' or 'trpo', got 'sac'"),
        (("--plain",), "--plain: Stable-Baselines3 has no algorithm that snf could take instead"),
        (("--set", "policy_kwargs.noise_layers=5"), "noise_layers=5 is more than the 2 layers of flow 'nsf'"),
        (("--set", "policy_kwargs.noise_layers=-2"), "noise_layers must be a whole number of at least 0, got -2"),
        (("--set", "policy_kwargs.noise_std=2.0"), "noise_std must be a number between 0 and 1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_clear_line(tmp_path, capsys, more, message):
    assert snf(tmp_path, *more) != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*"))


def test_a_setting_of_another_base_is_unknown(tmp_path, capsys):
    assert snf(tmp_path, "--set", "clip_range=0.1", base="a2c") != 0
    assert "--set clip_range: unknown key" in capsys.readouterr().err


@pytest.mark.parametrize("agent", ["flow-sac", "nfq", "flow-ppo"])
def test_noise_layers_are_asked_of_snf(tmp_path, capsys, agent):
    words = ["--env", "Pendulum", "--agent", agent, "--set", "policy_kwargs.noise_layers=1", "--logdir", str(tmp_path)]
    assert main(words) == 2
    assert "--set policy_kwargs.noise_layers=1: this policy" in (error := capsys.readouterr().err) and "snf" in error
