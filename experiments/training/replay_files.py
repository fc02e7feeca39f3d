"""A replay buffer on disk, in files of some transitions each: what an earlier checkpoint has is not written again.

A file's name is the checksum of what is in it. One that is there already is linked, so that a million transitions cost
a checkpoint only the time to look at them.
"""

import hashlib
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer

DIRECTORY = "replay_buffer"
OLDER = "replay_buffer.pkl"  # one file, as earlier versions wrote it
INDEX = "index.json"
BYTES, ROWS = 2**26, 50_000  # in a file at most; transitions count for each environment


def has_replay_buffer(checkpoint: Path) -> bool:
    """Whether a checkpoint has kept its replay buffer."""
    return (checkpoint / DIRECTORY).exists() or (checkpoint / OLDER).exists()


def drop_replay_buffer(checkpoint: Path) -> None:
    """Remove a checkpoint's replay buffer; files that others share stay theirs."""
    (checkpoint / OLDER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint / DIRECTORY, ignore_errors=True)


def save_replay_buffer(buffer: ReplayBuffer, checkpoint: Path, shares_with: Path | None) -> None:
    """
    Write the rows in use: SB3 would save the empty ones too, a million by default.

    :param buffer: the replay buffer
    :param checkpoint: a directory
    :param shares_with: an earlier checkpoint, whose files are linked where they are the same; None: none is
    """
    directory = checkpoint / DIRECTORY
    directory.mkdir()
    earlier = None if shares_with is None else shares_with / DIRECTORY
    # With optimize_memory_usage the row at the position has the last observation
    used = buffer.buffer_size if buffer.full else buffer.pos + 1
    arrays = {name: value for name, value in vars(buffer).items() if _is_of_arrays(value)}
    rows = {name: value for name, value in arrays.items() if _length(value) == buffer.buffer_size}
    others = {name: value for name, value in arrays.items() if name not in rows}
    n = max(1, min(ROWS, BYTES // sum(_bytes_of_a_row(value) for value in rows.values())))
    slices = [slice(first, min(first + n, used)) for first in range(0, used, n)]
    index = dict(
        position=buffer.pos,
        full=buffer.full,
        rows_per_file=n,
        rows=[_keep(_part(rows, of_file), directory, earlier) for of_file in slices],
        others=_keep(others, directory, earlier),
    )
    (directory / INDEX).write_text(json.dumps(index))


def load_replay_buffer(buffer: ReplayBuffer, checkpoint: Path, goes_on: bool) -> None:
    """
    Fill a replay buffer.

    :param buffer: a new one
    :param checkpoint: a directory
    :param goes_on: whether the episode goes on that was running; else a new one begins
    """
    directory = checkpoint / DIRECTORY
    if directory.exists():
        index = json.loads((directory / INDEX).read_text())
        buffer.pos, buffer.full = index["position"], index["full"]
        for i, name in enumerate(index["rows"]):
            _put(buffer, pickle.loads((directory / name).read_bytes()), i * index["rows_per_file"])
        _put(buffer, pickle.loads((directory / index["others"]).read_bytes()), 0)
    else:
        contents = pickle.loads((checkpoint / OLDER).read_bytes())
        buffer.pos, buffer.full = contents["position"], contents["full"]
        _put(buffer, contents["arrays"], 0)
    if goes_on:
        return
    # A new episode begins: n-step returns and goals must not reach across the seam. One that had ended stays ended.
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is wanted here
            buffer.truncate_last_trajectory()
        return
    last = buffer.pos - 1
    buffer.timeouts[last] = np.maximum(buffer.timeouts[last], 1 - buffer.dones[last])


def _keep(part: dict[str, Any], directory: Path, earlier: Path | None) -> str:
    """Some arrays in a file of that directory, whose name is given back."""
    content = pickle.dumps(part, protocol=pickle.HIGHEST_PROTOCOL)
    name = f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.pkl"
    if earlier is not None and (earlier / name).exists() and (earlier / name).read_bytes() == content:
        try:
            os.link(earlier / name, directory / name)
            return name
        except OSError:  # a file system without links
            pass
    (directory / name).write_bytes(content)
    return name


def _put(buffer: ReplayBuffer, arrays: dict[str, Any], first: int) -> None:
    for name, saved in arrays.items():
        target = getattr(buffer, name)
        parts = [(target[key], saved[key]) for key in saved] if isinstance(saved, dict) else [(target, saved)]
        for array, rows in parts:
            array[first : first + len(rows)] = rows


def _is_of_arrays(value: Any) -> bool:
    """Whether an attribute of a replay buffer is an array, or one for each part of an observation."""
    values = list(value.values()) if isinstance(value, dict) else [value]
    return bool(values) and all(isinstance(array, np.ndarray) and array.ndim > 0 for array in values)


def _length(value: Any) -> int:
    return len(next(iter(value.values())) if isinstance(value, dict) else value)


def _bytes_of_a_row(value: Any) -> int:
    return sum(array[0].nbytes for array in (value.values() if isinstance(value, dict) else [value]))


def _part(arrays: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {
        name: {key: array[rows] for key, array in value.items()} if isinstance(value, dict) else value[rows]
        for name, value in arrays.items()
    }
