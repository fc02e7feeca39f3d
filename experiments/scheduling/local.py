"""Jobs on this machine's processors, some side by side."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any

from experiments.scheduling.job import Job, Processes, execute, unfinished

Outcomes = dict[Job, str]
Show = Callable[[set[Job], Outcomes], None]
"""Is called about once a second with the jobs in hand and the outcomes of those that ended."""


def processors() -> int:
    """How many this process may use: a container or ``taskset`` may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def train(jobs: Sequence[Job], side_by_side: int, threads: int = 1, show: Show | None = None) -> Outcomes:
    """
    Train what is not trained yet. SIGINT and SIGTERM let every run save and stop.

    :param jobs: in this order
    :param side_by_side: how many at once
    :param threads: of each
    :param show: see above
    :return: of each job what `execute` says: ``"finished"``, ``"interrupted"``, or why it failed
    """
    waiting = unfinished(jobs)
    outcomes: Outcomes = {job: "finished" for job in jobs if job not in waiting}
    processes, in_hand = Processes(), set[Job]()

    def one(job: Job) -> None:
        if processes.stopping:
            outcomes[job] = "interrupted"
            return
        in_hand.add(job)
        outcomes[job] = execute(job, threads, processes)
        in_hand.discard(job)

    with stopping_on_signals(processes), ThreadPoolExecutor(side_by_side) as pool:
        futures: set[Future[None]] = {pool.submit(one, job) for job in waiting}
        try:
            while futures:
                done, futures = wait(futures, timeout=1.0)
                for future in done:
                    future.result()
                if show is not None:
                    show(set(in_hand), dict(outcomes))
        except BaseException:
            processes.stop()
            raise
    return outcomes


@contextmanager
def stopping_on_signals(processes: Processes) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on, once; a second one ends this process at once, and those that train go on."""
    previous: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, previous[number])
        threading.Thread(target=processes.stop).start()  # the main thread may hold the lock just now

    if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
