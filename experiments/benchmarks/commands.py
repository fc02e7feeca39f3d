"""``experiments/run.py`` as a user types it, in a terminal and a process of its own, halted between its turns."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.benchmarks.mode import Options
from experiments.benchmarks.turns import Work
from experiments.training.provenance import ROOT
from experiments.training.tables import logged_step

POLL = 0.02  # seconds between two looks at the run's logs


def training_command(options: Options, agent: str, flow: str | None, n_envs: int = 1, **settings: Any) -> Work:
    """
    A training with all that a run does beside learning, but for evaluations.

    A turn lasts until the run has logged its next row: 1,000 steps of SAC, a rollout of PPO. The first one, which warms
    up, also starts the program.

    :param options: the command line
    :param agent: what to train
    :param flow: its recipe; None for a Gaussian
    :param n_envs: environments side by side
    :param settings: hyperparameters in place of the agent's own
    :return: the work, in environment steps
    """
    arguments = ["--env", options.env, "--agent", agent, "--num-envs", str(n_envs), "--device", options.device]
    arguments += ["--eval-every", "0", *(["--flow", flow] if flow else [])]
    arguments += ["--steps", "100"] if options.quick else []  # which logs every 10 steps
    arguments += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = TrainingCommand(arguments)
    return Work(command.turn, close=command.close)


class TrainingCommand:
    """
    A run that goes on from one row of its logs to the next when it is told to.

    :param arguments: of ``run.py``
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.logdir = TemporaryDirectory(prefix="flowrl-benchmark-")
        self.terminal, its_end = pty.openpty()  # where there is no terminal there would be no progress bar to pay for
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments, "--logdir", self.logdir.name],
            stdin=subprocess.DEVNULL,
            stdout=its_end,
            stderr=its_end,
        )
        self.process.send_signal(signal.SIGSTOP)
        os.close(its_end)
        self.steps, self.shown = 0, b""
        self.logs: Path | None = None
        self.size = 0  # of the logs when they were last read

    def turn(self) -> float:
        """
        Let it train until it logs again.

        :return: environment steps between the two rows
        """
        self.process.send_signal(signal.SIGCONT)
        try:
            while (steps := self._logged_steps()) <= self.steps:
                self._read_terminal()
        finally:
            self.process.send_signal(signal.SIGSTOP)
        done, self.steps = steps - self.steps, steps
        return done

    def close(self) -> None:
        """End it, and forget what it wrote."""
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
        self.logdir.cleanup()

    def _logged_steps(self) -> int:
        logs = next(Path(self.logdir.name).glob("*/*/*/progress.csv"), None) if self.logs is None else self.logs
        size = 0 if logs is None else logs.stat().st_size
        if logs is None or size == self.size:
            return self.steps
        self.logs, self.size = logs, size
        return logged_step(logs)

    def _read_terminal(self) -> None:
        """Wait a moment, and take what is printed meanwhile: a full terminal would halt the run."""
        if not select.select([self.terminal], [], [], POLL)[0]:
            return
        try:
            text = os.read(self.terminal, 65_536)
        except OSError:  # what Linux says once nobody writes any more
            text = b""
        if not text:
            lines = self.shown.decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"run.py ended early: {lines[-1] if lines else 'it printed nothing'}")
        self.shown = (self.shown + text)[-4_096:]
