"""The scalars of a run in Weights & Biases or Trackio too (``--track``), whose Python interfaces are the same."""

import importlib
from pathlib import Path
from typing import Any
from uuid import uuid4

from stable_baselines3.common.logger import KVWriter

from experiments.training.errors import UsageError

PROJECT = "flowrl"


def import_tracker(tracker: str) -> Any:
    """
    :param tracker: ``"wandb"`` or ``"trackio"``
    :return: the module
    :raises UsageError: where it is not installed
    """
    try:
        return importlib.import_module(tracker)
    except ImportError:
        raise UsageError(f"--track {tracker}: it is not installed: pip install {tracker}") from None


class TrackingWriter(KVWriter):
    """
    Writes SB3's scalars to a tracker; a run that is resumed goes on there too.

    (Steps that both sessions log are logged once by Weights & Biases: they are the same, to the last bit.)

    :param tracker: ``"wandb"`` or ``"trackio"``
    :param path: the run directory; its last three names are the run's name there
    :param config: of the run; by its ``tracking_id``, made here where it is missing, Weights & Biases knows it, and
        Trackio by its name, which ends with the first letters of that
    :raises UsageError: where it is not installed, or does not start
    """

    def __init__(self, tracker: str, path: Path, config: dict[str, Any]) -> None:
        self.module = import_tracker(tracker)
        identity = config.setdefault("tracking_id", uuid4().hex)
        name = "/".join(path.parts[-3:])
        which = (
            dict(name=name, dir=str(path), id=identity) if tracker == "wandb" else dict(name=f"{name}_{identity[:8]}")
        )
        try:
            self.module.init(project=PROJECT, config=config, resume="allow", **which)
        except Exception as error:  # no account, no network
            hint = "set WANDB_MODE=offline, or log in" if tracker == "wandb" else "see its documentation"
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"--track {tracker}: it does not start ({first}); {hint}") from error

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """As SB3's writers: numbers alone."""
        scalars = {key: float(value) for key, value in key_values.items() if _is_number(value)}
        self.module.log(scalars, step=step)

    def close(self) -> None:
        """End the run there."""
        self.module.finish()


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, (str, bool)) and getattr(value, "ndim", 0) == 0
