"""Files that are written whole or not at all, whatever kills the process or fills the disk meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Write a file, which replaces the one that is there when it is complete.

    :param path: the file
    :return: a path beside it to write to; each process has its own, since two may write at once
    :raises OSError: if it cannot be written; the one that was there is as it was
    """
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")  # its end is kept, by which some tell what to write
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
