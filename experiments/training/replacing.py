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
    :return: where to write it meanwhile: beside it, and another place for each process, since two may write it at once
    :raises OSError: if it cannot be written; the one that was there is as it was
    """
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")  # its end is kept, by which some tell what to write
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
