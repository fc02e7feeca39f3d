"""Stable-Baselines3's log files, written on where a run is resumed; while the disk is full, they wait for space."""

from functools import partial
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat, filter_excluded_keys
from torch.utils.tensorboard import SummaryWriter

from experiments.training.full_disk import when_there_is_space
from experiments.training.tables import append_row, read_csv, write_csv


class EventsFile:
    """
    TensorBoard's file of events. TensorBoard's own writer ends for good at the first write that fails.

    :param path: the file; what is there stays
    """

    def __init__(self, path: str) -> None:
        self.file = open(path, "ab", buffering=0)

    def write(self, record: bytes) -> None:
        left = record
        while left:
            left = left[when_there_is_space(partial(self.file.write, left), "TensorBoard's events") :]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.file.close()

    @property
    def closed(self) -> bool:
        return self.file.closed


class ResumedTensorBoard(TensorBoardOutputFormat):
    """
    Stable-Baselines3's TensorBoard writer, which tells TensorBoard to forget what a resumed run had logged later.

    :param folder: where the events go
    :param step: the step that training goes on from
    """

    def __init__(self, folder: str, step: int) -> None:
        self.writer = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self._is_closed = False
        self.writer.flush()
        assert self.writer.file_writer is not None
        events = self.writer.file_writer.event_writer
        events._async_writer._writer._writer = EventsFile(events._file_name)


class ProgressTable(KVWriter):
    """
    Every scalar that Stable-Baselines3 logs, a row each time; new columns come after those that are there.

    :param path: the file, which a resumed run goes on with
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = read_csv(path)
        self.columns = list(rows[0]) if rows else []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        row = filter_excluded_keys(key_values, key_excluded, "csv")
        new = [name for name in row if name not in self.columns]
        self.columns += new

        def write_row() -> None:
            if new:
                write_csv(self.path, self.columns, [*read_csv(self.path), row])
            else:
                append_row(self.path, self.columns, row)

        when_there_is_space(write_row, "a row of progress.csv")

    def close(self) -> None:
        """Nothing is open."""
