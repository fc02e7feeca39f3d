"""Mode ``memory``: the most memory that a training takes beyond what Python and its libraries hold before it.

Every measurement is a process of its own, ``python -m experiments.benchmarks.memory``, that trains one agent and prints
what it needed.
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.learners import Learner, flow_learners, gaussian, parameters
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import MEGABYTES, Case, Contender, NotAvailable, Work
from experiments.training.provenance import ROOT

SETTINGS = dict(learning_starts=2, buffer_size=10_000)
MEGABYTE = 2**20
STATUS = Path("/proc/self/status")


def cases(options: Options) -> list[Case]:
    """
    SAC's agents.

    :param options: the command line
    :return: the case
    """
    reference = gaussian("SAC")
    learners = (reference, *flow_learners("SAC", options.flows))
    what = f"{options.env}, {options.amount} steps of SAC on {options.device}"
    contenders = [Contender(learner.name, partial(watch, learner, options), reference.name) for learner in learners]
    return [Case(what, MEGABYTES, contenders)]


def watch(learner: Learner, options: Options) -> Work:
    """
    A training in a fresh process.

    :param learner: which agent
    :param options: the command line
    :return: the work, in megabytes
    """
    # Few steps, for the number of parameters, and to find out whether it runs at all.
    trial = in_fresh_process(learner, options, steps=4)
    return Work(lambda: in_fresh_process(learner, options, options.amount)["megabytes"], trial["parameters"])


def in_fresh_process(learner: Learner, options: Options, steps: int) -> dict[str, Any]:
    """
    Run this file as a program.

    :param learner: which agent
    :param options: the command line
    :param steps: to train
    :return: what it printed
    """
    job = json.dumps(dict(learner=asdict(learner), options=asdict(options), steps=steps))
    command = [sys.executable, "-m", "experiments.benchmarks.memory", job]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError((process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1])
    answer = json.loads(process.stdout.splitlines()[-1])
    if "not_available" in answer:
        raise NotAvailable(answer["not_available"])
    return answer


def main(job: str) -> None:
    """
    Train one agent; print its peak memory and its parameters, or why it cannot be trained here.

    :param job: what :func:`in_fresh_process` wrote
    """
    request = json.loads(job)
    learner, options = Learner(**request["learner"]), Options(**request["options"])
    try:
        answer = train(learner, options, request["steps"])
    except NotAvailable as error:
        answer = dict(not_available=str(error))
    print(json.dumps(answer))


def train(learner: Learner, options: Options, steps: int) -> dict[str, Any]:
    """
    Train one agent in this process, and watch it.

    :param learner: which agent
    :param options: the command line
    :param steps: to train
    :return: the most megabytes that it took, and its number of parameters
    """
    torch.set_num_threads(options.threads)
    load_optimizer(options.device)
    before = forget_peak(options.device)
    model = learner.build(options, **SETTINGS)
    model.learn(steps)
    return dict(megabytes=(peak(options.device) - before) / MEGABYTE, parameters=parameters(model))


def load_optimizer(device: str) -> None:
    """
    Take one step of Adam, for which torch imports much of itself: that is nobody's training.

    :param device: ``cpu`` or ``cuda``
    """
    parameter = torch.nn.Parameter(torch.zeros(1, device=device))
    parameter.sum().backward()
    torch.optim.Adam([parameter]).step()


def forget_peak(device: str) -> int:
    """
    Start to watch from here.

    :param device: ``cpu`` or ``cuda``
    :return: bytes in use now
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes the present size
    except OSError:
        pass
    return peak(device)


def peak(device: str) -> int:
    """
    The most memory in use so far.

    On Linux from /proc: ``ru_maxrss`` would begin at the size of the process that started this one.

    :param device: ``cpu`` or ``cuda``
    :return: bytes
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


MODE = Mode("memory", "Peak memory of a training", cases, amount=500, quick_amount=8)

if __name__ == "__main__":
    main(sys.argv[1])
