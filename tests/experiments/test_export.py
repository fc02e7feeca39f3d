"""`experiments/export.py`: what a run learned, in a safe file, as ONNX, for the Hub; and who is warned of pickles."""

import os
import re
import zipfile

import numpy as np
import onnxruntime
import pytest

from experiments import evaluate, export
from experiments.training import trust
from experiments.training.run_directory import RunDirectory
from flowrl.export import load_policy
from tests.experiments.test_run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose observations are normalised by VecNormalize."""
    logdir = tmp_path_factory.mktemp("runs")
    return train(logdir, "flow-sac", "--set", "normalize=True", "--eval-every", "60", steps=120)


def test_the_file_acts_as_the_model_and_evaluates_as_the_run(run, tmp_path, capsys):
    assert export.main([str(run), "--to", str(tmp_path / "policy.safetensors")]) == 0
    policy = load_policy(tmp_path / "policy.safetensors", device="cpu")
    model, env = evaluate.load(RunDirectory.open(run), "best", "cpu")
    obs = np.float32([[1.0, 0.0, 3.0], [0.0, 1.0, -2.0]])
    expected, _ = model.predict(env.normalize_obs(obs), deterministic=True)
    np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], expected)

    capsys.readouterr()
    returns = []
    for arguments in ([str(run)], [str(tmp_path / "policy.safetensors"), "--env", "Pendulum"]):
        assert evaluate.main([*arguments, "--episodes", "1", "--device", "cpu"]) == 0
        returns.append(re.findall(r"return (\S+)", capsys.readouterr().out))
    assert returns[0] == returns[1] and len(returns[0]) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--env NAME"),
        (["--env", "MountainCarContinuous"], "has another observation_space"),
        (["--video"], "--video"),
    ],
)
def test_a_file_needs_its_environment(run, tmp_path, capsys, arguments, message):
    export.main([str(run), "--to", str(tmp_path / "policy.safetensors")])
    assert evaluate.main([str(tmp_path / "policy.safetensors"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_onnx(run, tmp_path):
    assert export.main([str(run), "--onnx", str(tmp_path / "policy.onnx"), "--model", "last"]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    assert session.run(None, dict(observation=np.zeros((2, 3), np.float32)))[0].shape == (2, 1)


def test_the_card_makes_the_environment_with_the_options_that_were_typed(tmp_path):
    run = RunDirectory(tmp_path)
    session = dict(command="python experiments/run.py", versions={})
    environment = dict(id="Pendulum-v1", name="Pendulum", kwargs=dict(sizes={1: (2,)}))
    arguments = dict(env_set=["sizes={1: (2,)}"])
    run.config = dict(environment=environment, agent="sac", seed=0, arguments=arguments, sessions=[session])
    with zipfile.ZipFile(tmp_path / "best_model.zip", "w") as archive:
        archive.writestr("data", "{}")
    assert export.card_of(run, "best", tmp_path)["environment_kwargs"] == dict(sizes={1: (2,)})


def test_the_card_says_how_good_it_is_and_how_it_was_made(run, tmp_path):
    folder = tmp_path / "card"
    assert export.main([str(run), "--hub", "me/pendulum", "--dry-run", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "learning_curve.png", "policy.safetensors"]
    text = (folder / "README.md").read_text()
    directory = RunDirectory.open(run)
    best = f"{max(row['mean_return'] for row in directory.evaluations()):.1f}"
    sampled = f"{max(row['sampled_mean_return'] for row in directory.evaluations()):.1f}"
    assert best in text or sampled in text
    assert directory.config["sessions"][0]["command"] in text and "Seed 0, " in text and "model-index" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "nothing to do"),
        (["--to", "x", "--dry-run", "y"], "--dry-run"),
        (["--to", "x", "--private"], "--private"),
        (["--to", "x", "--output", "sample"], "--output"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        export.parse_arguments(["run", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
def test_a_zip_of_somebody_else_warns_once(run, monkeypatch, capsys):
    monkeypatch.setattr(trust, "_warned", False)
    evaluate.load(RunDirectory.open(run), "best", "cpu")
    assert "pickles" not in capsys.readouterr().err, "it is one's own"
    monkeypatch.setattr(os, "geteuid", lambda: (run / "best_model.zip").stat().st_uid + 1)
    for _ in range(2):
        evaluate.load(RunDirectory.open(run), "best", "cpu")
    message = capsys.readouterr().err
    assert message.count("pickles") == 1 and "best_model.zip belongs to another user" in message
    assert "flowrl.export" in message
