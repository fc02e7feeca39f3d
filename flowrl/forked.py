"""A process that was forked computes with one thread.

The threads of OpenMP, on which torch and flowrl's kernels share out their work, do not survive a fork, and the first
operation that asks for them in the child waits for ever (in torch alone, too). ``multiprocessing``'s start methods
"spawn" and "forkserver", Stable-Baselines3's default, are free of this.
"""

import logging
import os

import torch

log = logging.getLogger(__name__)


def use_one_thread_after_a_fork() -> None:
    """Ask for it in every process that this one forks."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=_use_one_thread)


def _use_one_thread() -> None:
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        log.info(  # no warning: a DataLoader's workers, whom one thread suits, are forked as well
            "This process was forked and computes with one thread, since OpenMP's others do not survive a fork. For "
            "more, start it by spawn or forkserver; where nothing was computed before the fork, torch.set_num_threads "
            "is safe, too."
        )
