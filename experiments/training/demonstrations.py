"""Minari data sets: found, checked against the environment; as demonstrations split by episodes, or as transitions."""

import re
from typing import Any

import numpy as np
from gymnasium import spaces

from experiments.training.errors import UsageError, did_you_mean
from flowrl.algorithms import Demonstrations, Transitions

HELD_OUT = 0.1  # of the episodes, at least one where there are two
NAME = re.compile(r"([-\w]+/)*[-\w]+-v\d+")


def import_minari() -> Any:
    """
    Minari, which is optional.

    :return: the module
    """
    try:
        import h5py  # noqa: F401  the format of its files
        import minari
    except ImportError as error:
        raise UsageError(
            f"demonstrations need the 'demos' extra ({error.name} is missing): pip install -e '.[demos]'"
        ) from None
    return minari


def check_name(name: str) -> str:
    """
    Refuse what Minari takes for no name.

    :param name: ``(namespace/)name-vN``
    :return: the name
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a Minari data set: it must be like halfcheetah/flow-sac-v0")
    return name


def load(name: str, observation_space: spaces.Space, action_space: spaces.Box) -> tuple[Demonstrations, Demonstrations]:
    """
    Read a local data set; nothing is downloaded.

    :param name: the data set's name
    :param observation_space: the environment's
    :param action_space: the environment's
    :return: demonstrations to learn from, and those of one episode in ten, always the same, to judge by (of none where
        there is but one episode)
    """
    episodes = load_episodes(name, observation_space, action_space)
    order = np.random.default_rng(0).permutation(len(episodes))
    count = max(round(HELD_OUT * len(episodes)), min(len(episodes) - 1, 1))
    held_out, train = order[:count], order[count:]
    return _steps([episodes[i] for i in train], episodes[0]), _steps([episodes[i] for i in held_out], episodes[0])


def load_transitions(name: str, observation_space: spaces.Space, action_space: spaces.Box) -> Transitions:
    """
    Read a local data set whole; nothing is downloaded.

    :param name: the data set's name
    :param observation_space: the environment's
    :param action_space: the environment's
    :return: what was seen, done, earned and seen next, episode after episode
    """
    episodes = load_episodes(name, observation_space, action_space)
    steps = _steps(episodes, episodes[0])
    truncations = [np.append(episode.truncations[:-1], not episode.terminations[-1]) for episode in episodes]
    return Transitions(
        steps.observations,
        steps.actions,
        np.concatenate([episode.rewards for episode in episodes]).astype(np.float32),
        _observations(episodes, episodes[0], slice(1, None)),
        np.concatenate([episode.terminations for episode in episodes]).astype(bool),
        np.concatenate(truncations).astype(bool),
    )


def load_episodes(name: str, observation_space: spaces.Space, action_space: spaces.Box) -> list[Any]:
    """
    The episodes of a local data set that have a step.

    :param name: the data set's name
    :param observation_space: the environment's
    :param action_space: the environment's
    :return: Minari's episodes
    """
    minari = import_minari()
    from minari.storage import get_dataset_path

    check_name(name)
    if not (get_dataset_path(name) / "data").is_dir():
        local = minari.list_local_datasets()
        hint = did_you_mean(name, local) if local else "there is none yet; experiments/collect.py records one"
        raise UsageError(f"no Minari data set {name!r} in {get_dataset_path()}: {hint}")
    try:
        dataset = minari.load_dataset(name)
    except Exception as error:  # a broken file can fail in any way
        raise UsageError(f"the Minari data set {name!r} does not load ({type(error).__name__}: {error})") from error
    for kind, theirs, ours in (
        ("actions", dataset.action_space, action_space),
        ("observations", dataset.observation_space, observation_space),
    ):
        if not _same(theirs, ours):
            raise UsageError(f"the demonstrations {name!r} have other {kind}: {theirs}; the environment's are {ours}")
    episodes = [episode for episode in dataset.iterate_episodes() if len(episode)]
    if not episodes:
        raise UsageError(f"the Minari data set {name!r} is empty")
    return episodes


def _same(theirs: spaces.Space, ours: spaces.Space) -> bool:
    if isinstance(theirs, spaces.Dict) and isinstance(ours, spaces.Dict):
        return theirs.keys() == ours.keys() and all(_same(theirs[key], ours[key]) for key in ours.keys())
    return (
        isinstance(theirs, spaces.Box)
        and isinstance(ours, spaces.Box)
        and theirs.shape == ours.shape
        and np.allclose(theirs.low, ours.low)
        and np.allclose(theirs.high, ours.high)
    )


def _steps(episodes: list[Any], like: Any) -> Demonstrations:
    """The steps of some episodes; an observation follows the last one, in which nothing was done."""
    actions = np.concatenate([like.actions[:0], *(episode.actions for episode in episodes)])
    return Demonstrations(_observations(episodes, like, slice(-1)), actions)


def _observations(episodes: list[Any], like: Any, part: slice) -> Any:
    """A part of every episode's observations."""
    if isinstance(like.observations, dict):
        return {
            key: np.concatenate(
                [like.observations[key][:0], *(episode.observations[key][part] for episode in episodes)]
            )
            for key in like.observations
        }
    return np.concatenate([like.observations[:0], *(episode.observations[part] for episode in episodes)])
