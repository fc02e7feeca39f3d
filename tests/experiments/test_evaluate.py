"""`experiments/evaluate.py` and `experiments/compare.py`, which read what a run wrote."""

import csv
import json
import re

import pytest

from experiments import collect, compare, evaluate
from experiments.training.run_directory import RunDirectory
from tests.experiments.test_run import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of a flow agent and of its baseline; the flow agent's observations are normalised."""
    logdir = tmp_path_factory.mktemp("runs")
    return [
        train(logdir, "flow-sac", "--set", "normalize=True", "--eval-every", "60", steps=120),
        train(logdir, "sac", "--eval-every", "60", steps=120),
    ]


def test_evaluation_reports_the_return(runs, capsys):
    assert evaluate.main([str(runs[0]), "--episodes", "2"]) == 0
    output = capsys.readouterr().out
    assert re.search(
        r"flow-sac on Pendulum-v1, best model, deterministic actions: return -\d+\.\d ± .* 2 episodes.*\n"
        r"flow-sac on Pendulum-v1, best model, sampled actions: return -\d+\.\d ± .* 2 episodes",
        output,
    )
    assert evaluate.main([str(runs[0]), "--episodes", "2"]) == 0
    assert capsys.readouterr().out == output, "the same seed gives the same episodes"


def test_evaluation_uses_the_statistics_that_the_model_was_trained_with(runs):
    model, env = evaluate.load(RunDirectory.open(runs[0]), "last", "cpu")
    assert env.obs_rms.count > 100 and not env.training
    assert model.get_vec_normalize_env() is env


def test_sampled_actions_and_last_model(runs, capsys):
    assert evaluate.main([str(runs[1]), "--episodes", "1", "--stochastic", "--model", "last"]) == 0
    output = capsys.readouterr().out
    assert "last model, sampled actions" in output and "deterministic" not in output


@pytest.mark.parametrize("command", [evaluate, collect], ids=["evaluate", "collect"])
def test_no_episodes_are_refused(command, capsys):
    with pytest.raises(SystemExit):
        command.parse_arguments(["run", "--episodes", "0"])
    assert "--episodes: must be at least 1" in capsys.readouterr().err


def test_video(runs):
    pytest.importorskip("imageio")
    assert evaluate.main([str(runs[1]), "--episodes", "1", "--video"]) == 0
    (video,) = [path for path in runs[1].iterdir() if path.suffix in (".mp4", ".gif")]
    assert video.stat().st_size > 1_000


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_model_that_does_not_load_is_one_line(runs, tmp_path, capsys, damage):
    (tmp_path / "config.json").write_text((runs[1] / "config.json").read_text())
    (tmp_path / "last_model.zip").write_bytes(b"no zip")
    assert evaluate.main([str(tmp_path), "--model", {"missing": "best", "broken": "last"}[damage]]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1


def test_comparison_writes_table_metadata_and_plot(runs, tmp_path):
    assert compare.main([*map(str, runs), "--name", "pendulum", "--output", str(tmp_path)]) == 0
    with open(tmp_path / "pendulum.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["agent"], row["step"]) for row in rows] == [
        *(("flow-sac", "60"), ("flow-sac", "120"), ("sac", "60"), ("sac", "120"))
    ]
    evaluations = RunDirectory.open(runs[1]).evaluations()
    assert float(rows[-1]["mean_return"]) == pytest.approx(evaluations[-1]["mean_return"], abs=1e-3)
    metadata = json.loads((tmp_path / "pendulum.json").read_text())
    assert [run["agent"] for run in metadata] == ["flow-sac", "sac"]
    assert all(run["sessions"][0]["versions"]["torch"] for run in metadata)
    assert (tmp_path / "pendulum.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_has_a_curve_per_agent_through_the_mean_of_its_seeds():
    row = dict(agent="sac", flow="", update="SB3", env="Pendulum-v1", std_return=1.0, episodes=1, steps_per_second=50.0)
    rows = [row | dict(seed=seed, step=step, mean_return=seed + step) for seed in (0, 2) for step in (10, 20)]
    rows.append(row | dict(seed=0, step=30, mean_return=99.0))
    (axes,) = compare.plot(rows, "title").axes
    mean = axes.lines[-1]
    assert list(mean.get_xdata()) == [10, 20] and list(mean.get_ydata()) == [11, 21]
    assert mean.get_label() == "sac, 2 seeds, 50 steps/s"
    assert axes.get_xlabel() == "environment steps" and axes.get_ylabel() == "evaluation return"


def test_runs_of_one_agent_with_different_updates_are_curves_of_their_own():
    configs = [
        dict(flow="nsf", hyperparameters={}),  # from before there was a choice
        dict(flow="nsf", hyperparameters={}, plain=True),
        dict(flow="nsf", hyperparameters={}, plain=False),
        dict(flow="nsf", hyperparameters=dict(precision="bf16"), plain=False),
        dict(flow=None, hyperparameters={}, plain=False),  # the Gaussian agents are SB3's in any case
    ]
    assert [compare.update_of(config) for config in configs] == ["SB3", "SB3", "float32", "bf16", "SB3"]
    row = dict(agent="flow-sac", flow="nsf", env="X", seed=0, step=1, mean_return=0.0, std_return=1.0, episodes=1)
    rows = [row | dict(update=update, steps_per_second=1.0) for update in ("SB3", "float32")]
    (axes,) = compare.plot(rows, "title").axes
    assert [line.get_label() for line in axes.lines] == [
        f"flow-sac (nsf, update: {update}), 1 seed, 1 steps/s" for update in ("SB3", "float32")
    ]


def test_comparison_of_no_run_is_one_line(tmp_path, capsys):
    assert compare.main([str(tmp_path), "--name", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
