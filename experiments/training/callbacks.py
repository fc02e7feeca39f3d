"""What a run does beside learning: evaluate, log, checkpoint, show progress, and stop when it is asked to."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from experiments.training.run_directory import RunDirectory
from flowrl.callbacks import isolated_random_numbers, next_multiple


class TrainingClock:
    """Counts the seconds spent on training: it stands still during evaluations."""

    def __init__(self) -> None:
        self.started, self.pauses = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self.started - self.pauses

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.pauses += time.perf_counter() - begin


class Evaluation(BaseCallback):
    """
    Play some episodes with deterministic actions every so often; record them, and keep the best model.

    Neither the training environment nor the random numbers of training take part, and the episodes depend on the seed
    and the step alone: training with and without evaluations is the same, and so is a resumed run's evaluation.

    :param run: where the results and the best model go
    :param env: an environment of its own, wrapped as the training environment is
    :param every: steps between evaluations; 0: never
    :param episodes: episodes per evaluation
    :param seed: the run's seed
    :param clock: stands still meanwhile
    :param console: where each result is printed
    """

    def __init__(
        self,
        run: RunDirectory,
        env: VecEnv,
        every: int,
        episodes: int,
        seed: int,
        clock: TrainingClock,
        console: Console,
    ) -> None:
        super().__init__()
        self.run, self.env, self.every, self.episodes, self.seed = run, env, every, episodes, seed
        self.clock, self.console = clock, console

    def _on_training_start(self) -> None:
        rows = self.run.evaluations()
        self.best = max((row["mean_return"] for row in rows), default=-np.inf)
        self.last_step = int(rows[-1]["step"]) if rows else 0
        # A resumed run counts on from its earlier sessions.
        self.wall_offset = (rows[-1]["wall_seconds"] if rows else 0.0) - time.perf_counter()
        self.training_offset = (rows[-1]["training_seconds"] if rows else 0.0) - self.clock.seconds
        self.window = (self.num_timesteps, self.clock.seconds)
        self.next_step = next_multiple(self.num_timesteps, self.every)

    def _on_step(self) -> bool:
        if self.every > 0 and self.num_timesteps >= self.next_step:
            self.next_step = next_multiple(self.num_timesteps, self.every)
            self.evaluate()
        return True

    def evaluate_at_end(self) -> None:
        """Evaluate the model that training ended with, unless that has just been done."""
        if self.every > 0 and self.last_step < self.model.num_timesteps:
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate the model as it is."""
        step, seconds = self.model.num_timesteps, self.clock.seconds
        steps_per_second = (step - self.window[0]) / max(seconds - self.window[1], 1e-9)
        self.last_step, self.window = step, (step, seconds)
        with self.clock.paused():
            returns, lengths = self._play(step)
            row = dict(
                step=step,
                mean_return=returns.mean(),
                std_return=returns.std(),
                min_return=returns.min(),
                max_return=returns.max(),
                episodes=len(returns),
                mean_length=lengths.mean(),
                wall_seconds=round(self.wall_offset + time.perf_counter(), 3),
                training_seconds=round(self.training_offset + seconds, 3),
                steps_per_second=round(steps_per_second, 3),
            )
            self.run.add_evaluation(row)
            self.logger.record("eval/mean_reward", row["mean_return"])
            self.logger.record("eval/std_reward", row["std_return"])
            self.logger.record("eval/mean_ep_length", row["mean_length"])
            self.logger.record("time/total_timesteps", step, exclude="tensorboard")
            self.logger.dump(step)
            is_best = row["mean_return"] > self.best
            if is_best:
                self.best = row["mean_return"]
                self.run.save_model(self.model, "best")
        say(
            self.console,
            f"step {step:>9,}  evaluation {row['mean_return']:.1f} ± {row['std_return']:.1f}"
            f" over {len(returns)} episodes  {steps_per_second:,.0f} steps/s{'  best so far' if is_best else ''}",
        )

    def _play(self, step: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns and lengths of some episodes."""
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.env)
        self.env.seed((self.seed + 1_000_003 * (step + 1)) % 2**31)
        with isolated_random_numbers(self.model.device):
            returns, lengths = evaluate_policy(
                self.model, self.env, self.episodes, deterministic=True, return_episode_rewards=True
            )
        return np.asarray(returns), np.asarray(lengths)


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
    """

    def __init__(self, run: RunDirectory, every: int) -> None:
        super().__init__()
        self.run, self.every = run, every

    def _on_training_start(self) -> None:
        self.next_step = next_multiple(self.num_timesteps, self.every)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.every > 0 and self.model.num_timesteps >= self.next_step:
            self.next_step = next_multiple(self.model.num_timesteps, self.every)
            self.run.save_checkpoint(self.model)


class Interruption(BaseCallback):
    """
    End training in good order on Ctrl-C (or SIGTERM): use it as a context manager around ``learn``.

    A second Ctrl-C ends the process at once, as it would without this.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requested = False

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
        self.complete_steps = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        self.complete_steps = self.model.num_timesteps

    def _on_step(self) -> bool:
        return not self.requested

    def forget_unfinished_rollout(self) -> None:
        """Uncount the steps of a rollout that was cut short: nothing has been learned from them."""
        self.model.num_timesteps = self.complete_steps


class ProgressDisplay(BaseCallback):
    """
    A progress bar with the return, steps/s and the time left; plain lines where there is no terminal.

    :param total: the step at which training ends
    :param clock: the speed is that of training alone
    :param console: where it is shown
    :param bar: False: plain lines
    """

    PLAIN_LINES = 20

    def __init__(self, total: int, clock: TrainingClock, console: Console, bar: bool) -> None:
        super().__init__()
        self.total, self.clock, self.console = total, clock, console
        self.bar: Progress | None = None
        if bar:
            self.bar = Progress(
                BarColumn(bar_width=None),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("return {task.fields[mean_return]}"),
                TextColumn("{task.fields[steps_per_second]} steps/s"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console,
                expand=True,
            )

    def __enter__(self) -> "ProgressDisplay":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _on_training_start(self) -> None:
        self.start = self.last_time, self.last_step = self.clock.seconds, self.num_timesteps
        if self.bar is not None:
            self.task: TaskID = self.bar.add_task(
                "",
                total=self.total,
                completed=self.num_timesteps,
                mean_return="-",
                steps_per_second="-",
            )

    def _on_step(self) -> bool:
        now = self.clock.seconds
        if self.bar is not None:
            due = now - self.last_time > 0.5
        else:
            due = self.num_timesteps - self.last_step >= self.total / self.PLAIN_LINES
        if due:
            self._show(now)
        return True

    def _on_training_end(self) -> None:
        self.last_time, self.last_step = self.start  # the last speed shown is the average
        self._show(self.clock.seconds)

    def _show(self, now: float) -> None:
        episodes = self.model.ep_info_buffer or ()
        mean_return = f"{safe_mean([episode['r'] for episode in episodes]):.1f}" if episodes else "-"
        speed = (self.num_timesteps - self.last_step) / max(now - self.last_time, 1e-9)
        self.last_time, self.last_step = now, self.num_timesteps
        if self.bar is not None:
            self.bar.update(
                self.task,
                completed=min(self.num_timesteps, self.total),
                mean_return=mean_return,
                steps_per_second=f"{speed:,.0f}",
            )
            return
        left = time.strftime("%H:%M:%S", time.gmtime(max(self.total - self.num_timesteps, 0) / max(speed, 1e-9)))
        say(
            self.console,
            f"step {self.num_timesteps:>9,}/{self.total:,}  return {mean_return}  {speed:,.0f} steps/s  {left} left",
        )
        sys.stdout.flush()


def say(console: Console, line: str) -> None:
    """
    Print a line as it is: neither wrapped nor coloured, so that paths and commands can be copied.

    :param console: where
    :param line: the line
    """
    console.print(line, highlight=False, markup=False, soft_wrap=True)
