"""A replay buffer comes back from its files, and what a checkpoint shares with the one before is not written again."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from experiments.training import replay_files
from experiments.training.replay_files import (
    drop_replay_buffer,
    has_replay_buffer,
    load_replay_buffer,
    save_replay_buffer,
)

SIZE = 40
VECTOR, ACTION = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(replay_files, "ROWS", 10)


def make(kind):
    if kind == "dictionaries":
        space = spaces.Dict(a=VECTOR, b=spaces.Box(0, 255, (2,), np.uint8))
        return DictReplayBuffer(SIZE, space, ACTION, device="cpu")
    if kind == "n-step":
        return NStepReplayBuffer(SIZE, VECTOR, ACTION, device="cpu", n_steps=3, gamma=0.9)
    options = dict(optimize_memory_usage=True, handle_timeout_termination=False) if kind == "saving memory" else {}
    return ReplayBuffer(SIZE, VECTOR, ACTION, device="cpu", **options)


KINDS = ["vectors", "dictionaries", "n-step", "saving memory"]


def add(buffer, steps, seed=0):
    """Transitions of one environment, one after the other."""
    space = spaces.Dict(only=VECTOR) if buffer.observation_space == VECTOR else buffer.observation_space
    space.seed(seed)
    for i in range(steps):
        pair = [{key: part[None] for key, part in space.sample().items()} for _ in range(2)]
        obs, next_obs = [each.get("only", each) for each in pair]
        buffer.add(obs, next_obs, ACTION.sample()[None], np.ones(1) * i, np.array([i % 7 == 0]), [{}])


def arrays(buffer):
    return {
        f"{name} {key}": array
        for name, value in vars(buffer).items()
        for key, array in (value.items() if isinstance(value, dict) else [("", value)])
        if isinstance(array, np.ndarray)
    }


@pytest.mark.parametrize("steps", [3, 10, 25, SIZE, SIZE + 13])
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_it_comes_back(kind, steps, tmp_path):
    buffer, other = make(kind), make(kind)
    add(buffer, steps)
    save_replay_buffer(buffer, tmp_path, None)
    load_replay_buffer(other, tmp_path, goes_on=True)
    assert (other.pos, other.full) == (buffer.pos, buffer.full)
    for (name, ours), theirs in zip(arrays(buffer).items(), arrays(other).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def save_twice(tmp_path, first, then):
    """Two checkpoints; the files of the second that are those of the first, and the others."""
    buffer = make("vectors")
    before, after = tmp_path / "step_1", tmp_path / "step_2"
    for directory, steps in ((before, first), (after, then)):
        add(buffer, steps, seed=steps)
        directory.mkdir()
        save_replay_buffer(buffer, directory, before if directory == after else None)
    inodes = {path.stat().st_ino for path in before.rglob("*.pkl")}
    files = [*after.rglob("*.pkl")]
    shared = [path for path in files if path.stat().st_ino in inodes]
    return buffer, before, after, len(shared), len(files) - len(shared)


@pytest.mark.parametrize(
    ("first", "then", "shared", "written"),
    [(29, 0, 4, 0), (25, 4, 3, 1), (19, 15, 2, 3), (40, 5, 4, 1)],
    ids=["nothing new", "the last file grows", "new files", "the oldest are overwritten"],
)
def test_what_has_not_changed_is_shared(first, then, shared, written, tmp_path):
    """Files of ten transitions, and one with whatever else is an array, which stays as it is."""
    assert save_twice(tmp_path, first, then)[3:] == (shared, written)


def test_dropping_one_leaves_the_other_whole(tmp_path):
    buffer, before, after, *_ = save_twice(tmp_path, 25, 5)
    drop_replay_buffer(before)
    assert not has_replay_buffer(before) and has_replay_buffer(after)
    other = make("vectors")
    load_replay_buffer(other, after, goes_on=True)
    np.testing.assert_array_equal(other.observations, buffer.observations)


def test_a_damaged_file_is_not_shared(tmp_path):
    buffer = make("vectors")
    add(buffer, 30)
    for name in ("step_1", "step_2"):
        (tmp_path / name).mkdir()
    save_replay_buffer(buffer, tmp_path / "step_1", None)
    broken = max((tmp_path / "step_1").rglob("*.pkl"), key=lambda path: path.stat().st_size)
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    save_replay_buffer(buffer, tmp_path / "step_2", tmp_path / "step_1")
    other = make("vectors")
    load_replay_buffer(other, tmp_path / "step_2", goes_on=True)
    np.testing.assert_array_equal(other.observations, buffer.observations)


def test_the_one_file_of_earlier_versions_is_read(tmp_path):
    buffer, other = make("vectors"), make("vectors")
    add(buffer, 25)
    rows = {name: value[:25] for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
    contents = dict(position=25, full=False, arrays=rows)
    (tmp_path / "replay_buffer.pkl").write_bytes(pickle.dumps(contents))
    assert has_replay_buffer(tmp_path)
    load_replay_buffer(other, tmp_path, goes_on=True)
    np.testing.assert_array_equal(other.observations, buffer.observations)
    drop_replay_buffer(tmp_path)
    assert not has_replay_buffer(tmp_path)


def test_goals_of_hindsight_do_not_reach_across_the_seam(tmp_path):
    place = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    space = spaces.Dict(observation=place, achieved_goal=place, desired_goal=place)

    def buffer():
        return HerReplayBuffer(SIZE, space, ACTION, env=None, device="cpu")

    def add(filled, places):
        for x in places:
            here, there = ({key: np.full((1, 1), at, np.float32) for key in space} for at in (x, x + 1))
            filled.add(here, there, ACTION.sample()[None], np.zeros(1), np.zeros(1, bool), [{}])

    before, after = buffer(), buffer()
    add(before, range(5))
    save_replay_buffer(before, tmp_path, None)
    load_replay_buffer(after, tmp_path, goes_on=False)
    assert after.ep_length[:5].tolist() == [[5]] * 5 and after.timeouts[4] and after.dones[4]
    add(after, range(1000, 1005))
    after._compute_episode_length(0)
    assert after.ep_length[5:10].tolist() == [[5]] * 5 and (after.ep_start[5:10] == 5).all()
