"""A run's seconds: all of them, and those of training alone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingClock:
    """
    Counts the seconds of a run over all its sessions; those of training stand still during evaluations.

    :param wall: the seconds of earlier sessions
    :param training: of these, the seconds of training
    """

    def __init__(self, wall: float = 0.0, training: float = 0.0) -> None:
        self.started, self.pauses = time.perf_counter() - wall, wall - training

    @property
    def wall(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.started

    @property
    def training(self) -> float:
        """Seconds of training so far."""
        return self.wall - self.pauses

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Training stands still inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.pauses += time.perf_counter() - begin
