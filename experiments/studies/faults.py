"""What can happen to a run: signals, damaged files, a full disk, lost processes, an environment that breaks."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.scheduling.job import OUTPUT, ROOT, Job
from experiments.training.tables import logged_step

Inject = Callable[[Job, random.Random], tuple[int, int]]
"""What does something to a run; gives the step at which training ended, and that of the checkpoint it goes on from."""


def signalled(number: int) -> Inject:
    """A signal at a random moment of training."""

    def inject(job: Job, chance: random.Random) -> tuple[int, int]:
        with started(job, chance.uniform(0.0, 0.95)) as process:
            process.send_signal(number)
        return ended(job)

    return inject


def damaged(damage: Callable[[bytes], bytes], name: str) -> Inject:
    """A process that is killed and, on top of that, a file of its newest checkpoint that is not as it was."""

    def inject(job: Job, chance: random.Random) -> tuple[int, int]:
        with started(job, chance.uniform(0.5, 0.95)) as process:
            process.kill()
        path = job.run_directory()
        assert path is not None
        checkpoints = sorted(path.glob("checkpoints/step_*"), key=lambda one: int(one.name[5:]))
        broken = checkpoints[-1] / name
        broken.write_bytes(damage(broken.read_bytes()))
        return ended(job)[0], int(checkpoints[-2].name[5:])

    return inject


def worker_killed(job: Job, chance: random.Random) -> tuple[int, int]:
    """One of the processes that hold environments is killed."""
    with started(job, chance.uniform(0.2, 0.95)) as process:
        workers = [grandchild for child in children(process.pid) for grandchild in children(child)]
        if workers:  # else the run was faster
            os.kill(chance.choice(workers), signal.SIGKILL)
    return ended(job)


def filled(job: Job, chance: random.Random) -> tuple[int, int]:
    """The disk is full for some seconds."""
    job.directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(job.directory)], check=True)
    with started(job, chance.uniform(0.0, 0.9)):
        filler = job.directory / "filler"
        with open(filler, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        time.sleep(chance.uniform(2.0, 12.0))
        filler.unlink()
    return ended(job)


def broken_environment(job: Job, chance: random.Random) -> tuple[int, int]:
    """It ends the run by itself."""
    with started(job, 1.0):
        pass
    found = re.search(r"at step ([\d,]+)", job.last_words())
    assert found is not None, job.last_words()
    return int(found[1].replace(",", "")), job.step()


@contextmanager
def started(job: Job, moment: float) -> Iterator[subprocess.Popen[bytes]]:
    """
    Start a run, and wait for its end afterwards.

    :param job: the run
    :param moment: for how much of the time from the first step to the last it trains before something is done to it
    :return: the process
    """
    job.claim()
    with open(job.directory / OUTPUT, "ab") as output:
        process = subprocess.Popen([sys.executable, *job.command()], cwd=ROOT, stdout=output, stderr=output)
        while step_of(job) == 0 and process.poll() is None:
            time.sleep(0.01)
        while step_of(job) < moment * (job.steps or 0) and process.poll() is None:
            time.sleep(0.01)
        yield process
        process.wait()


def step_of(job: Job) -> int:
    """The last step that a run has logged."""
    path = job.run_directory()
    return logged_step(path / "progress.csv") if path else 0


def ended(job: Job) -> tuple[int, int]:
    """The step of a run's last line in the log, or of its last checkpoint, and that of its last checkpoint."""
    return max(step_of(job), job.step()), job.step()


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(status.parent.name))
    return found


def flipped(content: bytes) -> bytes:
    """One bit of it."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def with_mounts_of_our_own() -> None:
    """
    Begin this command again as root of a namespace of our own, in which a small disk can be mounted that no other
    process sees.

    :raises SystemExit: where the system allows nobody to
    """
    command = ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv]
    if "FLOWRL_OWN_MOUNTS" not in os.environ:
        if shutil.which("unshare") is None or subprocess.run([*command[:3], "true"]).returncode != 0:
            sys.exit("error: a full disk needs Linux with unshare; name other faults: --faults 'kill -9' SIGTERM ...")
        os.environ["FLOWRL_OWN_MOUNTS"] = "1"
        os.execvp(command[0], command)
