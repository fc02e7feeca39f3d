"""Training for tests of what schedules it: ``run.py`` without a process of its own, or a process without ``run.py``.

A process of ``run.py`` takes seconds to import torch. Where no process is tested, `in_this_process` has ``run.py``'s
``main`` called. Where nothing else is, a stand-in (this file, as a command) does what ``run.py`` does for who schedules
it: it writes ``config.json`` and checkpoints, goes on from the last of them, and saves when it is asked to stop.
"""

import io
import json
import os
import signal
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path


def in_this_process(monkeypatch):
    """Have jobs trained here, one at a time: they share torch's generators, and what is printed."""
    import torch

    from experiments.run import main
    from experiments.scheduling.job import Processes

    one_at_a_time = threading.Lock()

    def call(self, command, output, environment, lock):
        text, threads = io.TextIOWrapper(output, write_through=True), torch.get_num_threads()
        with one_at_a_time, redirect_stdout(text), redirect_stderr(text):
            torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
            try:
                return main(command[1:])
            finally:
                torch.set_num_threads(threads)
                text.detach()

    monkeypatch.setattr(Processes, "call", call)


def with_stand_ins(command):
    """
    :param command: `Job.command`
    :return: what is to stand in its place, so that stand-ins train
    """
    return lambda job: ["tests/experiments/stand_ins.py", *command(job)[1:]]


def stand_in(words):
    """
    Ten steps every five milliseconds.

    :param words: of the command line, without the script
    :return: the exit code
    """
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    options = dict(pairwise(words))
    run = Path(options.get("--resume") or Path(options["--logdir"], "Pendulum-v1", "flow-sac", "run"))
    step = max((int(path.name[5:]) for path in run.glob("checkpoints/step_*")), default=0)
    sessions = json.loads((run / "config.json").read_text())["sessions"] if step else []
    config = dict(environment=dict(id="Pendulum-v1"), steps=int(options["--steps"]))
    config["sessions"] = [*sessions, dict(process=os.getpid(), from_step=step)]
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(config))
    while step < config["steps"] and not stopped:
        time.sleep(0.005)
        step += 10
        if step % int(options["--checkpoint-every"]) == 0 or step == config["steps"] or stopped:
            (run / "checkpoints" / f"step_{step}").mkdir(parents=True)
    if stopped:
        print("interrupted and saved", flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(stand_in(sys.argv[1:]))
