"""Stable-Baselines3's log files, written on where a run is resumed, and read where it was killed."""

import csv
import os
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter


class ResumedTensorBoard(TensorBoardOutputFormat):
    """
    Stable-Baselines3's TensorBoard writer, which tells TensorBoard to forget what a resumed run had logged later.

    :param folder: where the events go
    :param step: the step that training goes on from
    """

    def __init__(self, folder: str, step: int) -> None:
        self.writer = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self._is_closed = False


class AppendingCSV(CSVOutputFormat):
    """
    Stable-Baselines3's CSV writer, which does not begin the file anew when a run is resumed.

    :param filename: the file
    """

    def __init__(self, filename: str) -> None:
        rows = Path(filename).read_text().splitlines() if os.path.exists(filename) else []
        if not rows:
            super().__init__(filename)
            return
        self.file = open(filename, "r+")
        self.file.seek(0, os.SEEK_END)
        self.keys = rows[0].split(",")
        self.separator, self.quotechar = ",", '"'


def read_csv(path: Path) -> list[dict[str, str]]:
    """
    Read a CSV file.

    :param path: the file; no file is no rows
    :return: one dictionary per row
    """
    if not path.exists():
        return []
    whole_lines = path.read_text().rpartition("\n")[0]  # without the half of a line that a killed process leaves
    return list(csv.DictReader(whole_lines.splitlines()))
