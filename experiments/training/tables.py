"""CSV files that outlive a killed process and a full disk: a row is written whole, or not at all."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.training.replacing import replacing

Row = Mapping[str, Any]


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


def logged_step(progress: Path) -> int:
    """
    How far a run has come.

    :param progress: its ``progress.csv``
    :return: the last step that it has logged; 0 where there is none
    """
    return max((int(row.get("time/total_timesteps") or 0) for row in read_csv(progress)), default=0)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """
    Write a CSV file, which replaces the one that is there when it is complete.

    :param path: the file
    :param columns: its columns
    :param rows: a value for each column, or for some
    :raises OSError: if it cannot be written; the one that was there is as it was
    """
    with replacing(path) as unfinished:
        unfinished.write_text(_text(columns, rows, header=True))


def append_row(path: Path, columns: Sequence[str], row: Row) -> None:
    """
    Append a row to a CSV file, which begins with its columns where it is new.

    :param path: the file
    :param columns: its columns
    :param row: a value for each column, or for some
    :raises OSError: if it cannot be written; the file is as it was
    """
    size = path.stat().st_size if path.exists() else 0
    with open(path, "ab", buffering=0) as file:
        try:
            text = _text(columns, [row], header=size == 0).encode()
            while text:
                text = text[file.write(text) :]
        except BaseException:
            file.truncate(size)
            raise


def _text(columns: Sequence[str], rows: Iterable[Row], header: bool) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
