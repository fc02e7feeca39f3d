"""One run of ``experiments/run.py`` that is to be trained once: its files say where it stands, and nothing else does.

A run that died goes on from its last checkpoint, one that is finished is left alone, and one that another process is
training is waited for: the job's lock is inherited by the process that trains, and ends with it.
"""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from experiments.training.errors import UsageError
from experiments.training.replacing import replacing
from experiments.training.tables import read_csv

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = "output.txt"  # what run.py says
ARGUMENTS = "arguments.json"
ATTEMPTS = 3  # in a row without a new checkpoint
INTERRUPTED = 130  # run.py's exit code when it was asked to stop
MISTAKE = 2  # ... and when trying again would not help
FAILED = ("failed: ", "refused: ")  # how outcomes of runs begin that ended otherwise than asked


@dataclass(frozen=True)
class Job:
    """
    One run.

    :param directory: its own, in which the run directory is made
    :param arguments: of ``run.py``, without ``--steps``
    :param steps: when it is finished; more of them let a finished run grow. None: as ``run.py`` says
    :param checkpoint_every: steps between checkpoints; 0: only at the end
    """

    directory: Path
    arguments: tuple[str, ...]
    steps: int | None = None
    checkpoint_every: int = 0

    def run_directory(self) -> Path | None:
        """The run directory that has come furthest; a process that died before its first checkpoint leaves another."""
        found = [path.parent for path in (ROOT / self.directory).glob("*/*/*/config.json")]
        return max(found, key=lambda path: (checkpointed(path), path.name), default=None)

    def run(self) -> Path | None:
        """Its run directory, once it is finished; one whose last evaluation failed is not."""
        path = self.run_directory()
        if path is None:
            return None
        config = json.loads((path / "config.json").read_text())
        steps = self.steps or config["steps"]
        if checkpointed(path) < steps:
            return None
        if config.get("eval_every"):  # as RunDirectory.lacks_evaluation, which SB3's seconds of import come with
            evaluated = max((float(row["step"]) for row in read_csv(path / "evaluations.csv")), default=0.0)
            return path if evaluated >= steps else None
        return path

    def step(self) -> int:
        """That of the last checkpoint; 0 where there is none."""
        path = self.run_directory()
        return checkpointed(path) if path else 0

    def command(self) -> list[str]:
        """What trains it, from its last checkpoint if it has one."""
        steps, path = self.steps_words(), self.run_directory()
        checkpoints = ["--checkpoint-every", str(self.checkpoint_every)]
        if path and checkpointed(path):
            return ["experiments/run.py", "--resume", str(path), *steps, *checkpoints, "--no-progress"]
        where = ["--no-progress", "--logdir", str(self.directory)]
        return ["experiments/run.py", *self.arguments, *steps, *checkpoints, *where]

    def steps_words(self) -> list[str]:
        """What tells ``run.py`` how long."""
        return ["--steps", str(self.steps)] if self.steps else []

    def trained(self) -> tuple[str, ...]:
        """The arguments of what was trained in its directory; its own where nothing was, whatever was tried there."""
        noted = ROOT / self.directory / ARGUMENTS
        if self.run_directory() is None or not noted.exists():
            return self.arguments
        return tuple(json.loads(noted.read_text()))

    def check(self) -> None:
        """
        :raises UsageError: if something else was trained in its directory
        """
        trained = self.trained()
        if trained != self.arguments:
            raise UsageError(
                f"{self.directory} holds a run of other settings ({shlex.join(trained)}): give what you changed "
                "another name, or remove the directory"
            )

    def claim(self) -> None:
        """
        Note in its directory what it trains; who claims it holds its lock, lest another process trains something else.

        :raises UsageError: if something else was trained there
        """
        self.check()
        directory = ROOT / self.directory
        directory.mkdir(parents=True, exist_ok=True)
        if self.run_directory() is None or not (directory / ARGUMENTS).exists():
            with replacing(directory / ARGUMENTS) as unfinished:
                unfinished.write_text(json.dumps(self.arguments) + "\n")

    @contextmanager
    def locked(self, processes: "Processes") -> Iterator[IO[str]]:
        """Wait until no other process trains it, or until we stop; the locked file, for the process that will."""
        (ROOT / self.directory).mkdir(parents=True, exist_ok=True)
        with open(ROOT / self.directory / "lock", "a") as file:
            while sys.platform != "win32" and not processes.stopping:
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.2)
                except OSError:  # a file system without locks
                    break
            yield file

    def last_words(self) -> str:
        """The last line that ``run.py`` said."""
        output = ROOT / self.directory / OUTPUT
        lines = output.read_text(errors="replace").strip().splitlines() if output.exists() else []
        return lines[-1] if lines else "nothing was said"


def checkpointed(run_directory: Path) -> int:
    """
    :param run_directory: of a run
    :return: the step of its last complete checkpoint; 0 where there is none
    """
    steps = [path.name.removeprefix("step_") for path in run_directory.glob("checkpoints/step_*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def unfinished(jobs: Iterable[Job]) -> list[Job]:
    """
    :param jobs: some
    :return: those that are to be trained
    :raises UsageError: if something else was trained in the directory of one, before anything is
    """
    jobs = list(jobs)
    for job in jobs:
        job.check()
    left = [job for job in jobs if job.run() is None]
    print(f"{len(left)} of {len(jobs)} runs to train", flush=True)
    return left


class Processes:
    """
    The processes that train at present, so that all can be asked to save and stop.

    :param outlive_us: whether they go on when this process is killed; else they then save and stop (on Linux)
    """

    def __init__(self, outlive_us: bool = True) -> None:
        self.stopping = False
        self.outlive_us = outlive_us
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def call(self, command: list[str], output: IO[bytes], environment: dict[str, str], lock: IO[str]) -> int:
        """
        Run one to its end.

        :param command: of Python
        :param output: where what it says goes
        :param environment: its variables
        :param lock: the open file that stays locked as long as it lives
        :return: its exit code
        """
        with self._lock:  # stop() sees each one, or none is started after it
            if self.stopping:
                return INTERRUPTED
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                pass_fds=[lock.fileno()] if sys.platform != "win32" else (),
                start_new_session=True,  # Ctrl-C in the terminal is the scheduler's to pass on
                preexec_fn=None if self.outlive_us or sys.platform != "linux" else _end_with_parent,
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Ask all of them to save and stop, and start none any more."""
        with self._lock:
            self.stopping = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends: prctl(PR_SET_PDEATHSIG, SIGTERM)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def execute(job: Job, threads: int = 1, processes: Processes | None = None) -> str:
    """
    Train a job to its end, again from its last checkpoint as often as its process dies.

    :param job: what to train
    :param threads: of its process
    :param processes: by which it can be stopped
    :return: ``"finished"``, ``"interrupted"``, or ``"failed: "`` and the last line that it said; ``"refused: "`` and
        that line where ``run.py`` does not take the arguments
    :raises UsageError: if something else was trained in its directory
    """
    processes = processes or Processes()
    environment = os.environ | dict(OMP_NUM_THREADS=str(threads))
    job.check()  # at once; again when nobody else trains it
    with job.locked(processes) as lock:
        if not processes.stopping:
            job.claim()
        deaths = 0
        while job.run() is None:
            if processes.stopping:
                return "interrupted"
            before = job.step()
            with open(ROOT / job.directory / OUTPUT, "ab") as output:
                code = processes.call(job.command(), output, environment, lock)
            if processes.stopping or code == INTERRUPTED:
                return "interrupted"
            if code == MISTAKE:
                return f"refused: {job.last_words()}"
            # An environment that gives NaN saves a checkpoint each time (exit code 1): that is no progress.
            deaths = 0 if job.step() > before and code != 1 else deaths + 1
            if job.run() is None and deaths >= ATTEMPTS:
                return f"failed: {job.last_words()}"
            if code != 0:
                time.sleep(0.1)
    return "finished"
