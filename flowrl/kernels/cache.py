"""Where compiled libraries are kept between processes: a place where nobody else can put one.

A library is code that runs as soon as it is opened. One is opened only if it, and the directory that it lies in, belong
to the user of this process, and nobody else can write there; and if its bytes are those that were kept.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def find(name: str) -> Path | None:
    """
    :param name: of a library
    :return: where it is kept, whole and safe to open; None if it is not
    """
    for directory in _directories():
        library = directory / name
        try:
            if _is_private(directory) and _belongs_to_us(library) and _belongs_to_us(_checksum_file(library)):
                if _checksum_file(library).read_bytes() == _checksum(library):
                    return library
        except OSError:  # not there, or not ours to look at
            continue
    return None


def keep(library: Path) -> Path | None:
    """
    Keep a library for later processes.

    :param library: as the compiler wrote it
    :return: where it is kept; None where there is no safe place, or no room
    """
    for directory in _directories():
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.lstat().st_uid == os.geteuid() and not directory.is_symlink():
                directory.chmod(0o700)  # an older version left it to the umask
            if not _is_private(directory):
                continue
            kept = directory / library.name
            _write(kept, library.read_bytes())
            _write(_checksum_file(kept), _checksum(library))
            return kept
        except OSError:  # read-only, or full
            continue
    return None


def _directories() -> Iterator[Path]:
    """The user's cache; where there is no home, or a read-only one, a directory of the user's among temporary files."""
    try:
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowrl"
    except RuntimeError:  # no home
        pass
    yield Path(tempfile.gettempdir()) / f"flowrl-{os.geteuid()}"


def _is_private(directory: Path) -> bool:
    """Whether nobody else can put a file there, or another directory in its place."""
    if not _belongs_to_us(directory):
        return False
    parents = [parent.stat() for parent in (*directory.absolute().parents, *directory.resolve().parents)]
    trusted = {0, os.geteuid(), parents[-1].st_uid}  # in a container, / may belong to nobody
    return all(
        parent.st_uid in trusted and (not parent.st_mode & WRITABLE_BY_OTHERS or parent.st_mode & stat.S_ISVTX)
        for parent in parents
    )


def _belongs_to_us(path: Path) -> bool:
    """Whether it is the user's own and nobody else can change it; not so for a link, which everybody may write."""
    found = path.lstat()
    return found.st_uid == os.geteuid() and not found.st_mode & WRITABLE_BY_OTHERS


def _checksum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _checksum(library: Path) -> bytes:
    return hashlib.sha256(library.read_bytes()).hexdigest().encode()


def _write(path: Path, content: bytes) -> None:
    """All of a file or nothing of it, though several processes may write it at once."""
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent)  # which only its owner can read and write
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
