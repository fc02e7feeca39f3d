"""A run's seconds: all of them, and those of training alone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingClock:
    """
    Counts the seconds of a run over all its sessions; those of training stand still during evaluations and while a
    checkpoint is written.

    :param wall: the seconds of earlier sessions
    :param training: of these, the seconds of training
    """

    def __init__(self, wall: float = 0.0, training: float = 0.0) -> None:
        self.started, self.pauses = time.perf_counter() - wall, wall - training
        self.paused_at: float | None = None

    @property
    def wall(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.started

    @property
    def training(self) -> float:
        """Seconds of training so far."""
        return (self.wall if self.paused_at is None else self.paused_at) - self.pauses

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Training stands still inside."""
        self.paused_at = self.wall
        try:
            yield
        finally:
            self.pauses += self.wall - self.paused_at
            self.paused_at = None
