"""Runs of ``experiments/run.py`` for a study, some side by side; what is finished is not run again."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = "output.txt"
DONE = re.compile(r"^done: .* steps in (.+)$", re.MULTILINE)  # the last that run.py says, with its run directory


@dataclass(frozen=True)
class Job:
    """
    One run.

    :param directory: where its run directory is made; its own
    :param arguments: of ``run.py``
    """

    directory: Path
    arguments: list[str]

    def run(self) -> Path | None:
        """Its run directory, once it is finished: an interrupted run saves its model too, but does not say "done"."""
        output = self.directory / OUTPUT
        said = DONE.search(output.read_text(errors="replace")) if output.exists() else None
        return ROOT / said[1] if said else None

    def command(self) -> list[str]:
        """What trains it."""
        fixed = ["--checkpoint-every", "0", "--no-progress", "--logdir", str(self.directory)]
        return ["experiments/run.py", *self.arguments, *fixed]


def train(jobs: list[Job], side_by_side: int) -> None:
    """
    Train what is not trained yet; what a run says goes to ``output.txt`` in its directory.

    :param jobs: in this order
    :param side_by_side: how many at once, each on one thread
    """
    waiting = [job for job in jobs if job.run() is None]
    running: list[tuple[Job, subprocess.Popen[bytes]]] = []
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    print(f"{len(waiting)} of {len(jobs)} runs to train", flush=True)
    while waiting or running:
        while waiting and len(running) < side_by_side:
            job = waiting.pop(0)
            job.directory.mkdir(parents=True, exist_ok=True)
            with open(job.directory / OUTPUT, "wb") as output:
                command = [sys.executable, *job.command()]
                running.append(
                    (job, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output))
                )
        time.sleep(0.5)
        for job, process in [one for one in running if one[1].poll() is not None]:
            running.remove((job, process))
            said = "" if process.returncode == 0 else f" failed: see {job.directory / OUTPUT}"
            print(f"{job.directory}{said}, {len(waiting)} to go", flush=True)
