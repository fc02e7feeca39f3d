"""A model on disk with all that training needs to go on: weights and optimisers, normalisation, replay buffer, and what
`experiments.training.continuation` adds to them."""

import hashlib
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_wrapper

from experiments.training.clock import TrainingClock
from experiments.training.continuation import load_environment, save_continuation, save_environment
from experiments.training.errors import TrainingError
from experiments.training.replacing import replacing
from experiments.training.replay_files import DIRECTORY as REPLAY_BUFFER
from experiments.training.replay_files import has_replay_buffer, load_replay_buffer, save_replay_buffer
from experiments.training.trust import warn_of_foreign_pickles

MODEL, NORMALIZATION, SECONDS = "model.zip", "vecnormalize.pkl", "seconds.json"
CHECKSUMS = "checksums.json"


class NonFiniteWeights(TrainingError):
    """A model with weights that are NaN or infinite was to be saved."""


def has_finite_weights(model: BaseAlgorithm) -> bool:
    """
    Whether a model is worth saving.

    :param model: the model
    :return: whether all its weights are finite, the entropy coefficient among them
    """
    weights = [*model.policy.parameters(), *filter(None, [getattr(model, "log_ent_coef", None)])]
    return all(bool(torch.isfinite(weight).all()) for weight in weights)


def save_model(model: BaseAlgorithm, directory: Path, prefix: str = "") -> None:
    """
    Save a model, and the normalisation statistics that its observations went through.

    Every file is written under another name first and renamed when it is whole: nobody ever finds half of one. A model
    whose weights are not finite replaces none that was saved before.

    :param model: the model
    :param directory: where the files go
    :param prefix: how their names begin (``"best_"``)
    """
    if not has_finite_weights(model):
        raise NonFiniteWeights("the model has weights that are NaN or infinite")
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        with replacing(directory / (prefix + NORMALIZATION)) as unfinished_file:
            normalization.save(str(unfinished_file))
    with replacing(directory / (prefix + MODEL)) as unfinished_file:
        model.save(unfinished_file)


def save_checkpoint(
    model: BaseAlgorithm,
    directory: Path,
    clock: TrainingClock,
    callbacks: Iterable[BaseCallback] | None = None,
    shares_with: Path | None = None,
    beside: Iterable[Path] = (),
) -> str | None:
    """
    Save all that training needs to go on, as a directory that appears when it is complete.

    :param model: the model
    :param directory: replaced if it is there
    :param clock: the run's
    :param callbacks: that take part in training; None: it goes on with new episodes, whatever can be saved
    :param shares_with: an earlier checkpoint: transitions that both have are one file on the disk
    :param beside: files that the checkpoint shall have too, those of them that there are
    :return: why the environments could not be saved, so that training goes on with new episodes; None if they were
    """
    new = directory.with_name(unfinished(directory.name))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        save_model(model, new)
        if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
            save_replay_buffer(model.replay_buffer, new, shares_with)
        (new / SECONDS).write_text(json.dumps(dict(wall=clock.wall, training=clock.training)))
        reason = None
        if callbacks is not None:
            assert model.env is not None
            reason = save_environment(model.env, new)
            if reason is None:
                save_continuation(model, callbacks, new)
        for path in beside:
            link(path, new)
        write_checksums(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(new, directory)
    _to_disk(directory.parent)
    return reason


def unfinished(name: str) -> str:
    """The name of a checkpoint's directory until all of it is written."""
    return f".{name}.unfinished"


def link(path: Path, directory: Path) -> None:
    """
    Have a file in a directory too: the same one, where the file system has links; whoever changes it writes it anew.

    :param path: the file; nothing happens where there is none
    :param directory: where it has no file of this name
    """
    if not path.exists():
        return
    try:
        os.link(path, directory / path.name)
    except OSError:  # a file system without links
        shutil.copy2(path, directory / path.name)


def write_checksums(directory: Path) -> None:
    """
    Note what is in a directory, and have all of it on the disk before the note is.

    :param directory: of files that are complete
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    sums = {path.relative_to(directory).as_posix(): _checksum(path) for path in paths}
    for path in (*paths, *(path for path in directory.rglob("*") if path.is_dir())):
        _to_disk(path)
    (directory / CHECKSUMS).write_text(json.dumps(sums))
    _to_disk(directory / CHECKSUMS)
    _to_disk(directory)


def damage(directory: Path) -> str | None:
    """
    What is wrong with a checkpoint.

    :param directory: the checkpoint
    :return: for people to read; None if nothing is, as far as is known: earlier versions noted no checksums
    """
    noted = directory / CHECKSUMS
    if not noted.exists():
        return None
    try:
        sums = json.loads(noted.read_text())
    except (OSError, ValueError):
        return f"{noted.name} is broken"
    for name, checksum in sums.items():
        path = directory / name
        if path.exists() and _checksum(path) != checksum:
            return f"{name} is not as it was written"
        # Only the newest checkpoints keep their replay buffer.
        is_dropped = name.startswith(REPLAY_BUFFER) and not has_replay_buffer(directory)
        if not path.exists() and not is_dropped:
            return f"{name} is missing"
    return None


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file, or a directory's list of files, would outlast a power cut."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_model(
    algorithm: type[BaseAlgorithm],
    directory: Path,
    env: VecEnv,
    device: str,
    prefix: str = "",
    force_reset: bool = True,
) -> BaseAlgorithm:
    """
    Load a model into an environment, which gets the normalisation statistics saved with it.

    :param algorithm: the model's class
    :param directory: where it was saved
    :param env: an environment that is wrapped as the model's was
    :param device: where the model shall live
    :param prefix: how the names of its files begin
    :param force_reset: whether the environment starts a new episode
    :return: the model
    """
    warn_of_foreign_pickles(directory / (prefix + MODEL))
    model = algorithm.load(directory / (prefix + MODEL), env=env, device=device, force_reset=force_reset)
    normalization = unwrap_vec_wrapper(env, VecNormalize)
    if normalization is not None:
        with open(directory / (prefix + NORMALIZATION), "rb") as file:
            saved = pickle.load(file)
        normalization.obs_rms, normalization.ret_rms = saved.obs_rms, saved.ret_rms
    return model


def load_checkpoint(
    algorithm: type[BaseAlgorithm], directory: Path, make_env: Callable[[], VecEnv], device: str
) -> BaseAlgorithm:
    """
    Load what :func:`save_checkpoint` saved.

    :param algorithm: the model's class
    :param directory: the checkpoint
    :param make_env: makes new training environments, for a checkpoint without the environments as they stood
    :param device: where the model shall live
    :return: the model, ready to ``learn`` with ``reset_num_timesteps=False``
    """
    warn_of_foreign_pickles(directory)
    saved = load_environment(directory)
    model = load_model(algorithm, directory, saved or make_env(), device, force_reset=saved is None)
    if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        load_replay_buffer(model.replay_buffer, directory, goes_on=saved is not None)
    return model


def saved_step(path: Path) -> float:
    """
    At which step of its training a model was saved.

    :param path: its zip file
    :return: the step; infinity where the file is broken
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("data"))["num_timesteps"]
    except (zipfile.BadZipFile, KeyError, ValueError):
        return float("inf")
