"""Run directories without a run: what a resume forgets, who may write, what older and half-written files give."""

import json
import math
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from rich.console import Console

from experiments.training.callbacks import Checkpoints
from experiments.training.clock import TrainingClock
from experiments.training.errors import UsageError
from experiments.training.run_directory import EVALUATION_COLUMNS, RunDirectory, best_return


@pytest.fixture
def run(tmp_path):
    """A run with evaluations at steps 100, 200 and 300, the last of them the best."""
    run = RunDirectory(tmp_path)
    run.config = dict(sessions=[dict(process=4711)])
    for step in (100, 200, 300):
        row = dict.fromkeys(EVALUATION_COLUMNS, 1.0)
        run.add_evaluation(row | dict(step=step, mean_return=-1000.0 + step, sampled_mean_return=-900.0))
    return run


def save_stub(run, which, step):
    with zipfile.ZipFile(run.path / f"{which}_model.zip", "w") as archive:
        archive.writestr("data", json.dumps(dict(num_timesteps=step)))


def test_the_best_model_is_the_one_that_plays_best_in_either_way():
    rows = [dict(mean_return=-900.0, sampled_mean_return=-100.0), dict(mean_return=-500.0, sampled_mean_return=-600.0)]
    assert [best_return(row) for row in rows] == [-100.0, -500.0]


@pytest.mark.parametrize(("step", "left", "best"), [(200, [100, 200], -math.inf), (300, [100, 200, 300], -700.0)])
def test_a_resume_forgets_the_models_of_what_it_discards(run, step, left, best):
    save_stub(run, "best", 300)
    save_stub(run, "last", 200)
    assert run.best_return() == -700.0
    run.forget_after(step)
    assert [row["step"] for row in run.evaluations()] == left
    assert run.best_return() == best and (run.path / "best_model.zip").exists() == (best > -math.inf)
    assert (run.path / "last_model.zip").exists()


def test_a_resume_clears_what_a_killed_process_was_writing(run):
    for name in ("step_100", ".step_123.unfinished"):
        (run.path / "checkpoints" / name / "replay_buffer").mkdir(parents=True)
    run.forget_after(300)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step_100"]


def test_half_a_row_at_the_end_is_none(run):
    with open(run.path / "evaluations.csv", "a") as file:
        file.write("400,-12")
    (run.path / "progress.csv").write_text("a,time/total_timesteps\n1,100\n2,2")
    assert len(run.evaluations()) == 3
    run.forget_after(300)
    row = dict.fromkeys(EVALUATION_COLUMNS, 1.0)
    run.add_evaluation(row | dict(step=400))
    assert [row["step"] for row in run.evaluations()] == [100, 200, 300, 400]
    assert run.progress() == [{"a": "1", "time/total_timesteps": "100"}]
    (run.path / "progress.csv").write_text("a,time/tot")
    run.forget_after(300)
    assert not (run.path / "progress.csv").exists()


def test_evaluations_of_an_earlier_version_are_read_and_go_on(tmp_path):
    columns = [column for column in EVALUATION_COLUMNS if not column.startswith("sampled")]
    (tmp_path / "evaluations.csv").write_text(",".join(columns) + "\n" + ",".join(["7"] * len(columns)) + "\n")
    run = RunDirectory(tmp_path)
    (row,) = run.evaluations()
    assert row["mean_return"] == 7 and math.isnan(row["sampled_mean_return"]) and best_return(row) == 7
    assert run.clock(7).training == pytest.approx(7, abs=0.1), "checkpoints had no seconds: those of the evaluation"
    run.forget_after(7)
    run.add_evaluation(dict.fromkeys(EVALUATION_COLUMNS, 8.0))
    assert [best_return(row) for row in run.evaluations()] == [7, 8]


def test_a_clock_goes_on_from_the_checkpoint(run):
    checkpoint = run.path / "checkpoints" / "step_250"
    checkpoint.mkdir(parents=True)
    (checkpoint / "seconds.json").write_text(json.dumps(dict(wall=70.0, training=50.0)))
    clock = run.clock(250)
    with clock.paused():
        pass
    assert clock.wall == pytest.approx(70, abs=0.1) and clock.training == pytest.approx(50, abs=0.1)
    assert TrainingClock().training < 0.1


def test_training_stands_still_while_a_checkpoint_is_written(run, monkeypatch):
    clock, seen = TrainingClock(), []

    def save(model, clock, callbacks):
        time.sleep(0.3)
        seen.append(clock.training)

    monkeypatch.setattr(run, "save_checkpoint", save)
    checkpoints = Checkpoints(run, 1, clock, [], Console())
    checkpoints.model = None
    checkpoints.save()
    assert max(seen[0], clock.training) < 0.2 and clock.wall >= 0.3


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks there")
def test_a_run_has_one_writer_and_a_dead_one_is_none(run):
    with run.locked():
        with pytest.raises(UsageError, match="still being trained, by process 4711"), run.locked():
            pass
    hold = "import fcntl, os, signal; fcntl.flock(os.open({!r}, os.O_RDONLY), fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    dead = subprocess.run([sys.executable, "-c", hold.format(str(run.path))])
    assert dead.returncode == -signal.SIGKILL
    with run.locked():
        pass
