"""What a fit shows while it runs: a progress bar and TensorBoard's scalars."""

from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter


class Monitor:
    """A context manager around the steps of a fit.

    :param steps: how many there will be
    :param progress: whether to show a progress bar
    :param log_dir: where TensorBoard's files go; None: nowhere
    """

    def __init__(self, steps: int, progress: bool, log_dir: str | Path | None):
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, disable=not progress)
        self.task = self.progress.add_task("", total=steps)
        self.writer = None if log_dir is None else SummaryWriter(str(log_dir))

    def __enter__(self) -> "Monitor":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):  # type: ignore[no-untyped-def]
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def advance(self) -> None:
        """One step is done."""
        self.progress.advance(self.task)

    def record(self, step: int, **values: float) -> None:
        """Show named values, in TensorBoard as ``fit/NAME``."""
        self.progress.update(self.task, description=", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"fit/{name}", value, step)
