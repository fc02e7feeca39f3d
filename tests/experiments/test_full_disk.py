"""A full disk is said, and loses nothing: training goes on without a checkpoint, and waits with its last words."""

import errno

import pytest
from rich.console import Console

from experiments.training import checkpoints, full_disk
from experiments.training.full_disk import when_there_is_space
from experiments.training.run_directory import RunDirectory
from tests.experiments.test_run import train


class Disk:
    """Has no space for some writes."""

    def __init__(self, write, *full):
        self.write, self.full, self.calls = write, full, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.write(*args, **kwargs)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(full_disk, "WAIT", 0.0)


def test_it_waits_and_says_so_once(tmp_path, capsys):
    assert when_there_is_space(Disk(lambda: 3, 1, 2, 3), "a number", Console()) == 3
    assert capsys.readouterr().out.count("space for a number") == 1
    with pytest.raises(IsADirectoryError):
        when_there_is_space(lambda: open(tmp_path, "w"), "a file", Console())


def test_training_goes_on_without_a_checkpoint_and_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "save_environment", Disk(checkpoints.save_environment, 1, 3, 4))
    path = train(tmp_path, "sac", "--checkpoint-every", "80", "--eval-every", "0")
    output = capsys.readouterr().out
    assert output.count("no checkpoint at step 80; training goes on") == 1
    assert output.count("waits until there is space for the last checkpoint") == 1 and "done: 200 steps" in output
    assert [checkpoint.name for checkpoint in RunDirectory.open(path).checkpoints()] == ["step_160", "step_200"]
    assert not list((path / "checkpoints").glob(".*"))


def test_models_and_evaluations_wait_for_space(tmp_path, monkeypatch, capsys):
    for name, full in (("add_evaluation", 2), ("save_model", 1)):
        disk = Disk(getattr(RunDirectory, name), full)
        monkeypatch.setattr(RunDirectory, name, lambda *args, disk=disk: disk(*args))
    path = train(tmp_path, "sac", "--eval-every", "100")
    output = capsys.readouterr().out
    assert "space for an evaluation" in output and "space for the best model" in output
    assert len(RunDirectory.open(path).evaluations()) == 2 and (path / "best_model.zip").exists()
