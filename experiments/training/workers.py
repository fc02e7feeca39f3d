"""Environments in processes of their own: saved as they stand, and an error at once where one of them is lost."""

import atexit
import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from experiments.training.continuation import state_of
from experiments.training.errors import TrainingError


class WorkerLost(TrainingError):
    """A process that held an environment has ended."""


class Workers(SubprocVecEnv):
    """
    Stable-Baselines3's environments in processes, which can give their state and be made from one.

    :param makers: each makes one environment
    """

    def __init__(self, makers: list[Callable[[], gym.Env]]) -> None:
        multiprocessing.set_forkserver_preload(["flowrl"])  # seconds and memory, once and not in every process
        atexit.register(self._kill)  # at its exit Python would wait for ever for processes that ignore SIGTERM
        with self._all_there():
            super().__init__([partial(_begin, maker) for maker in makers])

    def states(self) -> list[bytes]:
        """
        Every environment as it stands.

        :raises PicklingError: if one cannot be pickled
        :raises WorkerLost: if one is gone
        """
        with self._all_there():
            answers = self.env_method("pickled_state")
        for _, reason in answers:
            if reason is not None:
                raise pickle.PicklingError(reason)
        return [state for state, _ in answers]

    @classmethod
    def from_states(cls, states: list[bytes]) -> "Workers":
        """
        :param states: of :meth:`states`
        :return: new processes, in which the environments go on
        """
        return cls([partial(pickle.loads, state) for state in states])  # each in its process

    def step_async(self, actions: np.ndarray) -> None:
        with self._all_there():
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        with self._all_there():
            return super().step_wait()

    def reset(self) -> VecEnvObs:
        with self._all_there():
            return super().reset()

    def close(self) -> None:
        """End the processes: those that do not listen, too. SB3 would wait for an answer that it may have had."""
        if not self.closed and not self.waiting:
            for remote in self.remotes:
                with suppress(OSError):
                    remote.send(("close", None))
            wait_for_all([process.sentinel for process in self.processes], timeout=5.0)
        self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
        for remote in self.remotes:
            remote.close()
        self.closed = True
        atexit.unregister(self._kill)

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            lost = self._lost()
            self._kill()
            raise WorkerLost(f"the environments lost {lost}") from error

    def _lost(self) -> str:
        wait([process.sentinel for process in self.processes], timeout=1.0)  # a pipe is closed a moment before the end
        for i, process in enumerate(self.processes):
            if (code := process.exitcode) is not None:
                how = f"killed by {signal.Signals(-code).name}" if code < 0 else "its error stands above"
                return f"process {i + 1} of {len(self.processes)} ({how})"
        return f"one of {len(self.processes)} processes"


def wait_for_all(sentinels: list[int], timeout: float) -> None:
    """
    Wait until processes have ended.

    :param sentinels: of the processes
    :param timeout: after which it is enough, in seconds
    """
    end = time.monotonic() + timeout
    while sentinels and (left := end - time.monotonic()) > 0:
        ended = wait(sentinels, left)
        sentinels = [sentinel for sentinel in sentinels if sentinel not in ended]


class _Worker(gym.Wrapper):
    """Gives the state of an environment to another process."""

    def pickled_state(self) -> tuple[bytes, str | None]:
        """The environment as it stands, and why that cannot be had, where it cannot."""
        try:
            return state_of(self.env), None
        except Exception as error:  # a simulator can refuse in any way, and a worker that raises ends
            return b"", f"{type(error).__name__}: {error}"


def _begin(maker: Callable[[], gym.Env]) -> Any:
    """Make an environment in a process of its own, which ends when the process that trains says so."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal, or a cluster, sends them to all processes
        signal.signal(number, signal.SIG_IGN)
    return _Worker(maker())
