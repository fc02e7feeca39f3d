"""A full disk is said, and loses nothing: training goes on without a checkpoint, and waits with its last words."""

import errno
import io
import os

import pytest
from rich.console import Console
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.training import checkpoints, full_disk, tables
from experiments.training.errors import one_line_errors
from experiments.training.full_disk import when_there_is_space
from experiments.training.logs import EventsFile, ProgressTable, ResumedTensorBoard
from experiments.training.progress import say
from experiments.training.run_directory import RunDirectory
from experiments.training.tables import append_row, read_csv, write_csv
from tests.experiments.test_run import SHORT_EPISODES, train


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
    path = train(tmp_path, "sac", "--checkpoint-every", "80", "--eval-every", "0", "--set", "learning_starts=180")
    output = capsys.readouterr().out
    assert output.count("no checkpoint at step 80; training goes on") == 1
    assert output.count("waits until there is space for the last checkpoint") == 1 and "done: 200 steps" in output
    assert [checkpoint.name for checkpoint in RunDirectory.open(path).checkpoints()] == ["step_160", "step_200"]
    assert not list((path / "checkpoints").glob(".*"))


def test_models_and_evaluations_wait_for_space(tmp_path, monkeypatch, capsys):
    for name, full in (("add_evaluation", 2), ("save_model", 1)):
        disk = Disk(getattr(RunDirectory, name), full)
        monkeypatch.setattr(RunDirectory, name, lambda *args, disk=disk: disk(*args))
    path = train(tmp_path, "sac", "--eval-every", "100", "--set", "learning_starts=180", *SHORT_EPISODES)
    output = capsys.readouterr().out
    assert "space for an evaluation" in output and "space for the best model" in output
    assert len(RunDirectory.open(path).evaluations()) == 2 and (path / "best_model.zip").exists()


class SmallDisk(io.FileIO):
    """A file with room for some bytes, and for some more each time that there was none."""

    room, more = 10, 10

    def write(self, content):
        if not self.room:
            self.room = self.more
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(bytes(content)[: self.room])
        self.room -= written
        return written


@pytest.fixture
def small_disk(monkeypatch):
    def opened(path, mode, buffering=-1):
        return SmallDisk(path, mode.replace("b", ""))

    monkeypatch.setattr(tables, "open", opened, raising=False)
    monkeypatch.setattr("experiments.training.logs.open", opened, raising=False)


def test_a_row_is_written_whole_or_not_at_all(tmp_path, small_disk):
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match="No space"):
        append_row(path, ["step", "return"], dict(step=1, **{"return": -1.5}))
    assert path.read_bytes() == b""
    SmallDisk.room, room = 1_000, SmallDisk.room
    try:
        append_row(path, ["step", "return"], {"step": 1, "return": -1.5})
    finally:
        SmallDisk.room = room
    assert path.read_text() == "step,return\n1,-1.5\n"  # what failed left no file without its columns
    with pytest.raises(OSError, match="No space"):
        append_row(path, ["step", "return"], {"step": 2, "return": -1.123456789})
    assert read_csv(path) == [{"step": "1", "return": "-1.5"}]


def test_a_table_that_cannot_be_written_anew_is_as_it_was(tmp_path, monkeypatch):
    write_csv(tmp_path / "table.csv", ["a"], [dict(a=1)])
    monkeypatch.setattr(os, "replace", Disk(None, 1))
    with pytest.raises(OSError, match="No space"):
        write_csv(tmp_path / "table.csv", ["a", "b"], [dict(a=1, b=2)])
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert read_csv(tmp_path / "table.csv") == [dict(a="1")]


def test_what_is_logged_waits_for_space_and_arrives_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.training.logs.append_row", Disk(append_row, 2))
    tensorboard = ResumedTensorBoard(str(tmp_path), 0)
    logger = Logger(str(tmp_path), [ProgressTable(tmp_path / "progress.csv"), tensorboard])
    events = tensorboard.writer.file_writer.event_writer._async_writer._writer
    assert isinstance(events._writer, EventsFile)
    events._writer.file = SmallDisk(events._writer.file.name, "a")
    for step in range(4):
        logger.record("train/loss", step / 8)
        logger.dump(step)
    logger.close()
    assert [row["train/loss"] for row in read_csv(tmp_path / "progress.csv")] == ["0.0", "0.125", "0.25", "0.375"]
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in read.Scalars("train/loss")] == [0.0, 0.125, 0.25, 0.375]
    output = capsys.readouterr().out
    assert "space for TensorBoard's events" in output and "space for a row of progress.csv" in output


def test_new_columns_come_after_the_old_ones(tmp_path):
    for columns in (["b", "a"], ["c", "b"]):
        table = ProgressTable(tmp_path / "progress.csv")  # as after a resume
        table.write({name: name * 2 for name in columns}, {name: None for name in columns})
    assert (tmp_path / "progress.csv").read_text() == "b,a,c\nbb,aa,\nbb,,cc\n"


def test_lines_that_cannot_be_shown_come_once_there_is_space():
    file = SmallText()
    console = Console(file=file)
    for line in "abc":
        say(console, line)
    file.error = None
    say(console, "d")
    assert file.getvalue() == "a\nb\nc\nd\n"
    with pytest.raises(OSError, match="broken"):
        say(Console(file=SmallText(errno.EIO, "broken")), "where it stands")


class SmallText(io.StringIO):
    """Where a command's output goes, on a disk that is full, or has another fault."""

    def __init__(self, number=errno.ENOSPC, reason="No space left on device"):
        super().__init__()
        self.error = OSError(number, reason)

    def write(self, text):
        """Keeps what it is given, as Python's own text files do."""
        super().write(text)
        if self.error:
            raise self.error


def test_a_command_that_cannot_begin_says_so(capsys):
    @one_line_errors
    def command(argv):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/somewhere")

    assert command([]) == 1
    assert capsys.readouterr().err == "error: the disk is full: runs/somewhere\n"
