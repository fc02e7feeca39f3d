"""What a run holds beside its model and its replay buffer, so that one that is resumed does what it would have done.

The environments with their simulators' states, wrappers and random generators; Python's, NumPy's and torch's random
numbers; logs that are not written yet; what callbacks remember; what an algorithm keeps of the episodes in hand.
"""

import copyreg
import inspect
import io
import pickle
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from gymnasium.utils import EzPickle
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from experiments.training.errors import TrainingError

ENVIRONMENT, CONTINUATION = "environment.pkl", "continuation.pkl"
LOGS = ("name_to_value", "name_to_count", "name_to_excluded")


class StatePickler(cloudpickle.Pickler):
    """
    Pickles environments as they stand.

    Gymnasium's `EzPickle` would make them anew from their arguments, SB3's `VecNormalize` would leave out what it
    wraps, and every `VecEnvWrapper` holds members of its class, which no pickle takes.
    """

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, (EzPickle, VecEnvWrapper)):
            return super().reducer_override(obj)
        attributes = {name: value for name, value in vars(obj).items() if name != "class_attributes"}
        return copyreg.__newobj__, (type(obj),), attributes, None, None, _set_attributes  # type: ignore[attr-defined]

    def persistent_id(self, obj: Any) -> Any:
        """Processes cannot be pickled: what makes them anew is."""
        return (type(obj), obj.states()) if hasattr(type(obj), "from_states") else None


class StateUnpickler(pickle.Unpickler):
    """Makes environments as they stood, those in processes of their own in new ones."""

    def persistent_load(self, saved: Any) -> Any:
        workers, states = saved
        return workers.from_states(states)


class TrialUnpickler(pickle.Unpickler):
    """Says whether what was written can be read, and starts no process."""

    def persistent_load(self, saved: Any) -> None:
        return None


def _set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    vars(obj).update(attributes)
    if isinstance(obj, VecEnvWrapper):
        obj.class_attributes = dict(inspect.getmembers(type(obj)))


def state_of(env: Any) -> bytes:
    """
    An environment as it stands; raises whatever its simulator does where it cannot be had.

    :param env: one, or several with their wrappers
    :return: what `StateUnpickler` makes it of
    """
    stream = io.BytesIO()
    StatePickler(stream, pickle.HIGHEST_PROTOCOL).dump(env)
    stream.seek(0)
    TrialUnpickler(stream).load()  # some environments can be written, but not read
    return stream.getvalue()


def save_environment(env: VecEnv, directory: Path) -> str | None:
    """
    Save the training environments, if they can be.

    :param env: with its wrappers
    :param directory: of the checkpoint
    :return: why they cannot; None if they were
    :raises TrainingError: if they are gone
    """
    try:
        state = state_of(env)
    except TrainingError:
        raise
    except Exception as error:  # a simulator can refuse in any way
        return f"{type(error).__name__}: {error}".splitlines()[0]
    (directory / ENVIRONMENT).write_bytes(state)
    return None


def load_environment(directory: Path) -> VecEnv | None:
    """
    :param directory: of a checkpoint
    :return: the environments as they stood; None where they were not saved
    """
    path = directory / ENVIRONMENT
    if not path.exists():
        return None
    env = StateUnpickler(io.BytesIO(path.read_bytes())).load()
    env._reset_seeds()
    return env


def save_continuation(model: BaseAlgorithm, callbacks: Iterable[BaseCallback], directory: Path) -> None:
    """
    Save all the rest.

    :param model: in the midst of training
    :param callbacks: that take part; what they keep is what their ``kept`` names
    :param directory: of the checkpoint
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    parameters = model.policy.named_parameters()
    content = dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state(),
        cuda=cuda,
        actions=model.action_space.np_random,
        logs={name: dict(getattr(model.logger, name)) for name in LOGS},
        callbacks={type(callback).__name__: _kept(callback) for callback in callbacks},
        episodes=getattr(model, "episodes_in_hand", None),
        gradients={name: p.grad.cpu() for name, p in parameters if p.grad is not None},  # whose norms are logged
    )
    (directory / CONTINUATION).write_bytes(pickle.dumps(content, pickle.HIGHEST_PROTOCOL))


def restore_continuation(model: BaseAlgorithm, callbacks: Iterable[BaseCallback], directory: Path) -> None:
    """
    Restore it, just before training goes on: nothing may draw a random number in between.

    :param model: loaded from the checkpoint, with its logger
    :param callbacks: new ones
    :param directory: of the checkpoint
    """
    content = pickle.loads((directory / CONTINUATION).read_bytes())
    for callback in callbacks:
        vars(callback).update(content["callbacks"].get(type(callback).__name__, {}))
    for name in LOGS:
        getattr(model.logger, name).update(content["logs"][name])
    if content["episodes"] is not None:
        model.episodes_in_hand = content["episodes"]  # type: ignore[attr-defined]
    parameters = dict(model.policy.named_parameters())
    for name, gradient in content["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)
    model.action_space._np_random = content["actions"]
    random.setstate(content["python"])
    np.random.set_state(content["numpy"])
    torch.set_rng_state(content["torch"])
    if content["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["cuda"][: torch.cuda.device_count()])


def _kept(callback: BaseCallback) -> dict[str, Any]:
    return {name: getattr(callback, name) for name in getattr(callback, "kept", ())}
