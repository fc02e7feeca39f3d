"""What a run does beside learning: log, checkpoint, keep the record of the update's form, stop when it is asked to."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from experiments.training.clock import TrainingClock
from experiments.training.errors import is_full
from experiments.training.full_disk import when_there_is_space
from experiments.training.progress import say
from experiments.training.run_directory import RunDirectory
from flowrl.callbacks import next_multiple


class DumpLogs(BaseCallback):
    """
    Write the logs of an off-policy algorithm every so many steps, where SB3 goes by episodes, long or short.

    On-policy algorithms write theirs after every rollout.

    :param every: steps between two rows
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def _on_training_start(self) -> None:
        self.next_step = next_multiple(self.num_timesteps, self.every)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OffPolicyAlgorithm) and self.num_timesteps >= self.next_step:
            self.next_step = next_multiple(self.num_timesteps, self.every)
            self.model.dump_logs()


class Checkpoints(BaseCallback):
    """
    Save a checkpoint every so many steps, between rollouts, when everything collected has been learned from.

    :param run: where they go
    :param every: steps between checkpoints; 0: only at the end
    :param clock: the run's
    :param callbacks: all that take part in training, so that what they remember is saved
    :param console: where it is said, once, that the environments cannot be saved
    """

    def __init__(
        self, run: RunDirectory, every: int, clock: TrainingClock, callbacks: list[BaseCallback], console: Console
    ) -> None:
        super().__init__()
        self.run, self.every, self.clock, self.callbacks, self.console = run, every, clock, callbacks, console
        self.has_said = False
        self.complete_steps = 0

    def _on_training_start(self) -> None:
        self.next_step = next_multiple(self.num_timesteps, self.every)
        self.complete_steps = self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.complete_steps = self.model.num_timesteps
        if self.every > 0 and self.model.num_timesteps >= self.next_step:
            self.next_step = next_multiple(self.model.num_timesteps, self.every)
            self.save()

    def _on_training_end(self) -> None:
        self.complete_steps = self.model.num_timesteps

    def save(self) -> None:
        """Save one now, between rollouts."""
        try:
            self._save()
        except OSError as error:
            if not is_full(error):
                raise
            step = f"{self.num_timesteps:,}"
            say(self.console, f"warning: the disk is full: no checkpoint at step {step}; training goes on")

    def save_at_last(self) -> None:
        """Save one when training ends: with a full disk, as soon as there is space."""
        when_there_is_space(self._save, "the last checkpoint", self.console)

    def _save(self) -> None:
        with self.clock.paused():
            reason = self.run.save_checkpoint(self.model, self.clock, self.callbacks)
        if reason is not None and not self.has_said:
            self.has_said = True
            say(
                self.console,
                f"note: this environment cannot be saved ({reason}): a resumed run starts a new episode",
            )


class UpdateForm(BaseCallback):
    """
    Record in ``config.json`` which form of the update runs and why, and say it at the start.

    A change in the midst of training is recorded; it is said, with its reason, by flowrl's own log.

    :param run: whose last session it belongs to
    :param console: where it is said
    :param every: steps between two looks
    """

    def __init__(self, run: RunDirectory, console: Console, every: int) -> None:
        super().__init__()
        self.run, self.console, self.every = run, console, every
        self.forms: list[dict[str, Any]] = []

    def _on_training_start(self) -> None:
        self._record()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.next_step:
            self._record()

    def _on_training_end(self) -> None:
        self._record()

    def _record(self) -> None:
        self.next_step = next_multiple(self.num_timesteps, self.every)
        form, reason = getattr(self.model, "update_form", "SB3"), getattr(self.model, "update_reason", "")
        if form in [seen["form"] for seen in self.forms]:
            return
        self.forms.append(dict(step=self.num_timesteps, form=form, reason=reason))
        config = self.run.config
        config["update"] = " then ".join(seen["form"] for seen in self.forms)
        config["sessions"][-1]["updates"] = self.forms
        self.run.config = config
        if len(self.forms) == 1:
            names = {"C": "in C", "CUDA graph": "as a CUDA graph", "torch": "in torch's operations"}
            say(self.console, f"update: {names.get(form, 'of Stable-Baselines3')}")


class Interruption(BaseCallback):
    """
    End training in good order on Ctrl-C (or SIGTERM): use it as a context manager around ``learn``.

    Training goes on to the end of the rollout and of the update, where everything can be saved: a step of SAC, a
    rollout of PPO. A second Ctrl-C ends the process at once, as it would without this.

    :param save: saves everything, between rollouts
    """

    def __init__(self, save: Callable[[], None]) -> None:
        super().__init__()
        self.save = save
        self.requested = self.ended = False

    def __enter__(self) -> "Interruption":
        self.previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self.previous[number])

    def _on_rollout_start(self) -> None:
        if self.requested:
            self.step = self.model.num_timesteps
            self.save()
            self.ended = True

    def _on_step(self) -> bool:
        return not self.ended  # nothing comes of the step that has just been taken
