"""What a run shows on the screen while it trains."""

from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import safe_mean

from experiments.training.clock import TrainingClock
from experiments.training.errors import is_full


class ProgressDisplay(BaseCallback):
    """
    A progress bar with the phase, the return, steps/s and the time left; plain lines where there is no terminal.

    :param total: the step at which training ends
    :param clock: the speed is that of training alone
    :param console: where it is shown
    :param bar: False: plain lines
    :param critic_warmup: the step until which the critics learn alone
    """

    PLAIN_LINES = 20

    def __init__(self, total: int, clock: TrainingClock, console: Console, bar: bool, critic_warmup: int = 0) -> None:
        super().__init__()
        self.total, self.clock, self.console, self.critic_warmup = total, clock, console, critic_warmup
        self.bar: Progress | None = None
        if bar:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("return {task.fields[mean_return]}"),
                TextColumn("{task.fields[speed]} steps/s"),
                TextColumn("{task.fields[left]}"),
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

    @property
    def phase(self) -> str:
        """What the model is doing."""
        # BehaviourCloning collects nothing: its learning_starts is 0
        if isinstance(self.model, OffPolicyAlgorithm) and self.num_timesteps < self.model.learning_starts:
            return "random actions"
        return "critics learn" if self.num_timesteps < self.critic_warmup else "learning"

    def _on_training_start(self) -> None:
        self.shown_phase = self.phase
        self.phase_start = self.last = (self.num_timesteps, self.clock.training)
        if self.bar is not None:
            self.task: TaskID = self.bar.add_task(
                self.phase, total=self.total, completed=self.num_timesteps, mean_return="-", speed="-", left=""
            )

    def _on_step(self) -> bool:
        step, seconds = self.last
        if self.phase != self.shown_phase:
            self._show(self.phase_start)  # at the average speed of the phase that ends
            self.phase_start, self.shown_phase = self.last, self.phase
        elif self.num_timesteps < self.total and (
            self.clock.training - seconds > 0.5
            if self.bar is not None
            else self.num_timesteps - step >= self.total / self.PLAIN_LINES
        ):
            self._show(self.last)
        return True

    def _on_training_end(self) -> None:
        self._show(self.phase_start)

    def _show(self, since: tuple[int, float]) -> None:
        """
        Show where training is.

        :param since: the step and the second since which speed is measured
        """
        step, seconds = self.last = (self.num_timesteps, self.clock.training)
        speed = (step - since[0]) / max(seconds - since[1], 1e-9)
        # Random actions are fast: their speed says nothing about the time that learning will take.
        left = ""
        if self.shown_phase != "random actions":
            left = f"{timedelta(seconds=round(max(self.total - step, 0) / max(speed, 1e-9)))} left"
        episodes = self.model.ep_info_buffer or ()
        mean_return = f"{safe_mean([episode['r'] for episode in episodes]):.1f}" if episodes else "-"
        if self.bar is not None:
            self.bar.update(
                self.task,
                description=self.phase,
                completed=min(step, self.total),
                mean_return=mean_return,
                speed=f"{speed:,.0f}",
                left=left,
            )
            return
        where = f"step {step:>9,}/{self.total:,}  {self.shown_phase}"
        say(self.console, f"{where}  return {mean_return}  {speed:,.0f} steps/s  {left}".rstrip())


def say(console: Console, line: str) -> None:
    """
    Print a line as it is: neither wrapped nor coloured, so that paths and commands can be copied.

    :param console: where; if that is a file on a full disk, the line comes once there is space
    :param line: the line
    """
    try:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    except OSError as error:
        if not is_full(error):
            raise
        console._buffer.clear()  # the file below has kept the line, and rich would write it once more
