"""The one writer and the one reader of run directories.

::

    runs/HalfCheetah-v5/flow-sac/2026-01-31_12-00-00_seed0/
        config.json             arguments, hyperparameters, versions, git commit, command lines
        progress.csv            every scalar that Stable-Baselines3 logs
        events.out.tfevents...  the same and the figures, for TensorBoard
        evaluations.csv         one row per evaluation: deterministic actions (mean_return, ...) and sampled ones
        best_model.zip          the model of the best evaluation  (and best_vecnormalize.pkl), see best_return
        last_model.zip          the model at the end              (and last_vecnormalize.pkl)
        checkpoints/step_50000  what --resume reads; only the newest two of an off-policy run keep their replay buffer

A run has one writer at a time: see :meth:`RunDirectory.locked`.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents import Agent, find_agent
from experiments.training import checkpoints as checkpoint
from experiments.training.clock import TrainingClock
from experiments.training.errors import TrainingError, UsageError
from experiments.training.full_disk import when_there_is_space
from experiments.training.logs import ProgressTable, ResumedTensorBoard
from experiments.training.replacing import replacing
from experiments.training.replay_files import drop_replay_buffer, has_replay_buffer
from experiments.training.tables import append_row, read_csv, write_csv

EVALUATION_COLUMNS = (
    *("step", "mean_return", "std_return", "min_return", "max_return", "sampled_mean_return", "sampled_std_return"),
    *("episodes", "mean_length"),
    *("wall_seconds", "training_seconds", "steps_per_second"),
)
# Replay buffers are large: only the newest checkpoints keep theirs; one more than needed, should the newest be broken.
FULL_CHECKPOINTS = 2


class Config(dict[str, Any]):
    """
    What a run's ``config.json`` says.

    :param path: of the file
    :param content: what it says
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise UsageError(f"{self.path} is damaged or no run's: it does not say {key!r}")


class RunDirectory:
    """
    A directory that one training run fills, over as many sessions as it takes.

    :param path: the directory
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, logdir: Path, environment: str, agent: str, seed: int) -> "RunDirectory":
        """
        Make a new run directory.

        :param logdir: the parent of all runs
        :param environment: the environment's id
        :param agent: the agent's name
        :param seed: the seed
        :return: the run directory, empty
        """
        parent = logdir / environment.rpartition(":")[2].replace("/", "_") / agent
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_seed{seed}"
        for suffix in ("", *(f"_{i}" for i in range(2, 1000))):
            path = parent / (name + suffix)
            try:
                path.mkdir(parents=True)
            except FileExistsError:  # two runs in one second
                continue
            except OSError as error:
                raise UsageError(f"--logdir {logdir}: cannot write there ({error.strerror})") from None
            return cls(path)
        raise UsageError(f"--logdir {logdir}: no free name for a run under {parent}")

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """
        Open a run directory that is there.

        :param path: the directory
        :return: the run directory
        """
        if not (path / "config.json").is_file():
            found = [candidate.parent for candidate in path.glob("**/config.json")]
            newest = max(found, key=lambda run: run.name, default=None)  # names begin with the time
            hint = f"; the newest run below it is {newest}" if newest else ""
            raise UsageError(f"{path} is no run directory (it has no config.json){hint}")
        return cls(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Keep other processes from writing to this run inside.

        The lock is the operating system's, on the directory: it ends with the process, however that ends.
        """
        if sys.platform == "win32":
            yield
            return
        import fcntl

        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(directory)
            process = self.config["sessions"][-1].get("process", "another one")
            raise UsageError(
                f"{self.path} is still being trained, by process {process}: wait for its end, or interrupt it"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(directory)

    # -- configuration ------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """What the run was started with."""
        path = self.path / "config.json"
        try:
            config = json.loads(path.read_text())
        except ValueError as error:  # of JSON, or of UTF-8
            raise UsageError(f"{path} is not valid JSON ({error})") from None
        parts = config if isinstance(config, dict) else {"it": config}
        for name in ("it", "environment", "hyperparameters"):
            if name in parts and not isinstance(parts[name], dict):
                raise UsageError(f"{path} is damaged or no run's: {name} is no mapping")
        return Config(
            path, {key: Config(path, part) if isinstance(part, dict) else part for key, part in config.items()}
        )

    @config.setter
    def config(self, config: dict[str, Any]) -> None:
        def write() -> None:
            with replacing(self.path / "config.json") as unfinished:
                unfinished.write_text(json.dumps(config, indent=2, default=_named) + "\n")

        when_there_is_space(write, "config.json")

    @property
    def agent(self) -> Agent:
        """Who learns or learned in it."""
        try:
            return find_agent(self.config["agent"])
        except ValueError as error:
            raise UsageError(f"{self.path / 'config.json'}: {error}") from None

    # -- curves -------------------------------------------------------------------------------------------------

    def logger(self, step: int = 0) -> Logger:
        """
        A logger that writes (or goes on writing) ``progress.csv`` and TensorBoard events.

        :param step: the step that training goes on from
        :return: the logger
        """
        formats = [ProgressTable(self.path / "progress.csv"), ResumedTensorBoard(str(self.path), step)]
        return Logger(str(self.path), formats)

    def add_evaluation(self, row: dict[str, float]) -> None:
        """
        Append a row to ``evaluations.csv``.

        :param row: a value for each of ``EVALUATION_COLUMNS``
        """
        append_row(self.path / "evaluations.csv", EVALUATION_COLUMNS, row)

    def evaluations(self) -> list[dict[str, float]]:
        """The rows of ``evaluations.csv``; NaN is what a run of an earlier version did not measure."""
        rows = read_csv(self.path / "evaluations.csv")
        return [{key: float(row.get(key) or "nan") for key in EVALUATION_COLUMNS} for row in rows]

    def lacks_evaluation(self, step: int) -> bool:
        """Whether a run that is evaluated has not been at this step, which it is to end with."""
        last = max((row["step"] for row in self.evaluations()), default=-1.0)
        return bool(self.config["eval_every"]) and last < step

    def best_return(self) -> float:
        """What the evaluation of ``best_model.zip`` gave; minus infinity where there is none."""
        step = checkpoint.saved_step(path) if (path := self.path / "best_model.zip").exists() else None
        return max((best_return(row) for row in self.evaluations() if row["step"] == step), default=-math.inf)

    def progress(self) -> list[dict[str, str]]:
        """The rows of ``progress.csv``; what was not logged at a step is empty."""
        return read_csv(self.path / "progress.csv")

    def forget_after(self, step: int) -> None:
        """
        Drop the evaluations, logs, models and checkpoints after a step, before training goes on from there; and what is
        left of a checkpoint whose process was killed while it wrote.

        :param step: the step of the checkpoint that training goes on from
        """
        for name, column, columns in (
            ("evaluations.csv", "step", list(EVALUATION_COLUMNS)),
            ("progress.csv", "time/total_timesteps", []),
        ):
            rows = read_csv(self.path / name)
            if not rows:
                (self.path / name).unlink(missing_ok=True)
                continue
            kept = [row for row in rows if not row.get(column) or float(row[column]) <= step]
            write_csv(self.path / name, columns or list(rows[0]), kept)
        for path in self.path.glob("*_model.zip"):
            if checkpoint.saved_step(path) > step:
                path.unlink()
                path.with_name(path.name.replace(checkpoint.MODEL, checkpoint.NORMALIZATION)).unlink(missing_ok=True)
        for path in self.checkpoints():
            if checkpoint_step(path) > step:
                shutil.rmtree(path)
        for path in (self.path / "checkpoints").glob(checkpoint.unfinished("step_*")):
            shutil.rmtree(path, ignore_errors=True)
        if not self._of_the_best_model()[0].exists():  # one that came later had taken its place
            for path in self.checkpoints()[-1:]:
                for file in self._of_the_best_model():
                    checkpoint.link(path / file.name, self.path)

    def _of_the_best_model(self) -> list[Path]:
        return [self.path / f"best_{name}" for name in (checkpoint.MODEL, checkpoint.NORMALIZATION)]

    def clock(self, step: int) -> TrainingClock:
        """
        The clock of a run that goes on.

        :param step: of the checkpoint that it goes on from
        :return: a clock that counts on from there
        """
        seconds = self.path / "checkpoints" / f"step_{step}" / checkpoint.SECONDS
        if seconds.exists():
            return TrainingClock(**json.loads(seconds.read_text()))
        for row in reversed(self.evaluations()):  # a checkpoint of an earlier version
            if row["step"] <= step:
                return TrainingClock(row["wall_seconds"], row["training_seconds"])
        return TrainingClock()

    # -- models -------------------------------------------------------------------------------------------------

    def save_model(self, model: BaseAlgorithm, which: str) -> None:
        """
        Save ``best_model.zip`` or ``last_model.zip``.

        :param model: the model
        :param which: ``"best"`` or ``"last"``
        """
        checkpoint.save_model(model, self.path, prefix=f"{which}_")

    def load_model(self, algorithm: type[BaseAlgorithm], which: str, env: VecEnv, device: str) -> BaseAlgorithm:
        """
        Load ``best_model.zip`` or ``last_model.zip``.

        :param algorithm: the model's class
        :param which: ``"best"`` or ``"last"``
        :param env: where the model will act
        :param device: where the model shall live
        :return: the model
        """
        path = self.path / f"{which}_model.zip"
        if not path.exists():
            others = sorted(other.name.partition("_")[0] for other in self.path.glob("*_model.zip"))
            hint = f"--model {others[0]}" if others else "train it first"
            raise UsageError(f"{self.path} has no {path.name}: {hint}")
        try:
            return checkpoint.load_model(algorithm, self.path, env, device, prefix=f"{which}_")
        except Exception as error:  # a broken file can fail in any way
            raise UsageError(f"{path} does not load ({first_line(error)})") from error

    def save_checkpoint(
        self, model: BaseAlgorithm, clock: TrainingClock, callbacks: Iterable[BaseCallback] | None = None
    ) -> str | None:
        """
        Save a checkpoint at the model's step, and drop the replay buffers of older ones.

        :param model: the model
        :param clock: the run's
        :param callbacks: that take part in training; None: it goes on with new episodes
        :return: why the environments could not be saved; None if they were
        """
        path = self.path / "checkpoints" / f"step_{model.num_timesteps}"
        # The newest but one: what damages a file costs one checkpoint of the two that are kept whole
        others = [other for other in self.checkpoints() if other != path]
        shares_with = others[-FULL_CHECKPOINTS] if len(others) >= FULL_CHECKPOINTS else None
        reason = checkpoint.save_checkpoint(model, path, clock, callbacks, shares_with, self._of_the_best_model())
        for old in self.checkpoints()[:-FULL_CHECKPOINTS]:
            drop_replay_buffer(old)
        return reason

    def checkpoints(self) -> list[Path]:
        """All complete checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step_*"), key=checkpoint_step)

    def _newest_intact(self, resumable: list[Path]) -> Path | None:
        """The newest checkpoint that is as it was written, with a warning where a newer one is not; else the newest."""
        for path in reversed(resumable):
            damage = checkpoint.damage(path)
            if damage is None:
                return path
            print(f"warning: the checkpoint {path} is damaged ({damage}); trying the one before it", file=sys.stderr)
        return resumable[-1] if resumable else None

    def load_checkpoint(
        self, algorithm: type[BaseAlgorithm], path: Path | None, make_env: Callable[[], VecEnv], device: str
    ) -> BaseAlgorithm:
        """
        Load a checkpoint.

        :param algorithm: the model's class
        :param path: which one; the newest that is not damaged by default
        :param make_env: makes new training environments, for a checkpoint without those that it was saved with
        :param device: where the model shall live
        :return: the model
        """
        resumable = [complete for complete in self.checkpoints() if (complete / checkpoint.MODEL).exists()]
        if issubclass(algorithm, OffPolicyAlgorithm):
            resumable = [complete for complete in resumable if has_replay_buffer(complete)]
        if path is None:
            path = self._newest_intact(resumable)
        if path is None:
            raise UsageError(f"{self.path} has no checkpoint to resume from: start the run again without --resume")
        others = [other for other in resumable if other.name != path.name]
        older = [other for other in others if checkpoint_step(other) < checkpoint_step(path)]
        cure = f"go on from another one: --resume {(older or others)[-1]}" if others else "start the run again"
        if (path / checkpoint.MODEL).exists() and path not in resumable:
            kept = f"only the newest {FULL_CHECKPOINTS} keep theirs"
            raise UsageError(f"the checkpoint {path} has no replay buffer any more ({kept}); {cure}")
        if (damage := checkpoint.damage(path)) is not None:
            raise UsageError(f"the checkpoint {path} is damaged ({damage}); {cure}")
        try:
            return checkpoint.load_checkpoint(algorithm, path, make_env, device)
        except TrainingError:
            raise
        except Exception as error:  # a broken file can fail in any way
            raise UsageError(f"the checkpoint {path} does not load ({first_line(error)}); {cure}") from error


def best_return(row: dict[str, float]) -> float:
    """
    What the best model is chosen by: the mean return of deterministic or of sampled actions, whichever is higher.

    :param row: an evaluation; NaN where there were no sampled actions
    :return: the return
    """
    return float(np.fmax(row["mean_return"], row["sampled_mean_return"]))


def checkpoint_step(path: Path) -> int:
    """
    The step that a checkpoint was saved at.

    :param path: the checkpoint's directory
    :return: the step
    """
    number = path.name.rpartition("_")[2]
    return int(number) if number.isdigit() else -1


def _named(value: Any) -> str:
    """What JSON has no form for: a class by its name, as --set takes it."""
    return value.__name__ if isinstance(value, type) else str(value)


def first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
