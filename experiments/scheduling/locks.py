"""Locks of the operating system on files: they end with the process that holds them, however that ends.

Windows has none of the kind, and some file systems of clusters have none: nothing is locked there.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Wait for the lock, and hold it inside.

    :param path: of a file, which is made with its directory where it is missing
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        if sys.platform != "win32":
            import fcntl

            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """
    :param path: of a file
    :return: whether anyone holds its lock
    """
    if sys.platform == "win32" or not path.exists():
        return False
    import fcntl

    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False
