"""Jobs on a Ray cluster, or on Ray embedded in this process: the same runs in the same directories.

All machines must see the repository under the same path, since a job's state is its files.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from experiments.scheduling.job import ROOT, Job, Processes, execute, unfinished
from experiments.scheduling.local import Outcomes, Show
from experiments.training.errors import UsageError


def train(jobs: Sequence[Job], address: str, threads: int = 1, show: Show | None = None) -> Outcomes:
    """
    Train what is not trained yet, each job on as many processors as it has threads.

    :param jobs: in this order
    :param address: of a cluster; ``"local"``: embedded
    :param threads: of each
    :param show: see `experiments.scheduling.local`
    :return: of each job: ``"finished"``, or why it failed
    """
    waiting = unfinished(jobs)
    outcomes: Outcomes = {job: "finished" for job in jobs if job not in waiting}
    with connected(address):
        import ray

        # A worker that dies is tried again, from the job's last checkpoint.
        remote: Any = ray.remote(num_cpus=threads, max_retries=3)(_execute)
        pending = {remote.remote(job, threads): job for job in waiting}
        while pending:
            ended, _ = ray.wait(list(pending), timeout=1.0)
            for reference in ended:
                job = pending.pop(reference)
                try:
                    outcomes[job] = ray.get(reference)
                except ray.exceptions.RayError as error:
                    outcomes[job] = f"failed: {str(error).splitlines()[0]}"
            if show is not None:
                show({job for job in pending.values() if job.run_directory()}, dict(outcomes))
    return outcomes


def _execute(job: Job, threads: int) -> str:
    """In a worker, with which the run's process ends: Ray would not know of one that outlived it."""
    return execute(job, threads, Processes(outlive_us=False))


@contextmanager
def connected(address: str) -> Iterator[None]:
    """
    Be connected to Ray inside.

    :param address: of a cluster; ``"local"``: Ray embedded in this process
    :raises UsageError: where it is not installed
    """
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs the 'suite' extra: pip install -e '.[suite]'") from None

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without GPUs sees those that are there
    environment = dict(env_vars=dict(PYTHONPATH=str(ROOT)))
    where = None if address == "local" else address
    ray.init(address=where, runtime_env=environment, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
