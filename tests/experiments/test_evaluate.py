"""`experiments/evaluate.py`, which plays what a run learned."""

import json
import re

import pytest

from experiments import collect, evaluate, run
from experiments.training.errors import UsageError
from experiments.training.run_directory import RunDirectory
from tests.experiments.test_run import SHORT_EPISODES, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of a flow agent and of its baseline; the flow agent's observations are normalised."""
    logdir = tmp_path_factory.mktemp("runs")
    return [
        train(logdir, "flow-sac", "--set", "normalize=True", "--eval-every", "60", *SHORT_EPISODES, steps=120),
        train(logdir, "sac", "--eval-every", "60", *SHORT_EPISODES, steps=120),
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


@pytest.mark.parametrize("command", [evaluate, collect], ids=["evaluate", "collect"])
def test_a_seed_that_numpy_does_not_take_is_refused(command, capsys):
    with pytest.raises(SystemExit):
        command.parse_arguments(["run", "--seed", str(2**32)])
    assert "the largest is 2**32 - 1" in capsys.readouterr().err


def test_a_run_says_itself_what_it_acts_in(runs, capsys):
    assert evaluate.main([str(runs[0]), "--env", "Hopper"]) == 2
    assert "drop --env" in capsys.readouterr().err


def test_the_newest_run_is_the_last_by_time(runs, tmp_path):
    for name in ("Walker2d-v5/sac/2026-01-01_00-00-00_seed0", "Hopper-v5/sac/2026-03-01_00-00-00_seed0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="newest run below it is .*Hopper-v5"):
        RunDirectory.open(tmp_path)


def test_video(runs):
    pytest.importorskip("imageio")
    assert evaluate.main([str(runs[1]), "--episodes", "1", "--video"]) == 0
    (video,) = [path for path in runs[1].iterdir() if path.suffix in (".mp4", ".gif")]
    assert video.stat().st_size > 1_000


@pytest.mark.parametrize(
    "content",
    [
        *(b"\xff\xfe\x80", b"", b"[]", b"{}", b'{"agent": "flowsac"}'),
        *(dict(agent="flowsac"), dict(environment=None), dict(hyperparameters=[])),
        dict(environment=dict(id="Pendulum-v1", title="Pendulum")),
    ],
    ids=str,
)
def test_a_damaged_configuration_is_one_line(runs, tmp_path, capsys, content):
    if isinstance(content, dict):
        config = json.loads((runs[1] / "config.json").read_text())
        content = json.dumps(config | content).encode()
    (tmp_path / "config.json").write_bytes(content)
    for command, words in ((evaluate.main, [str(tmp_path)]), (run.main, ["--resume", str(tmp_path)])):
        assert command(words) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1 and "config.json" in message


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_model_that_does_not_load_is_one_line(runs, tmp_path, capsys, damage):
    (tmp_path / "config.json").write_text((runs[1] / "config.json").read_text())
    (tmp_path / "last_model.zip").write_bytes(b"no zip")
    assert evaluate.main([str(tmp_path), "--model", {"missing": "best", "broken": "last"}[damage]]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
