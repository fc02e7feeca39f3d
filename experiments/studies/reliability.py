"""What is lost when a run is killed, stopped or damaged: ``make reliability``.

Trains one run of each agent to its end; then others, the same but for a fault at a random moment, which are resumed as
`experiments/suite.py` resumes runs. Compares their tables and weights with those of the first, to the last bit. Writes
``reliability.csv`` and ``.json`` to ``experiments/results/``, and ``docs/reliability.md`` anew.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import RESULTS, ResultsParser, Row, write_results
from experiments.scheduling.job import ROOT, Job, execute
from experiments.studies.reliability_page import write_page

RUNS = Path("runs/reliability")
STEPS, CHECKPOINT_EVERY = 2_000, 250
SMALL = ["--set", "policy_kwargs.net_arch=[64,64]", "--eval-every", "500", "--eval-episodes", "2"]
OFF_POLICY = ["--set", "learning_starts=200", *SMALL]
AGENTS = {
    "flow-sac": OFF_POLICY,
    "flow-ppo": ["--set", "n_steps=64", "--num-envs", "2", *SMALL],
    "nfac": OFF_POLICY,
}
TIMES = {"wall_seconds", "training_seconds", "steps_per_second"}  # the columns of evaluations.csv that are no results


def job_of(agent: str, name: str) -> Job:
    """
    :param agent: its name
    :param name: of the run
    :return: the run
    """
    words = ("--env", "Pendulum", "--agent", agent, "--seed", "0", *AGENTS[agent])
    return Job((RUNS / agent / name).absolute(), words, STEPS, CHECKPOINT_EVERY)


def start_and_send(job: Job, number: int, moment: float) -> int:
    """
    Start a run, and send it a signal.

    :param job: the run
    :param number: of the signal
    :param moment: for how much of the time from the first step to the last it trains before
    :return: the step of its last line in the log, or of its checkpoint
    """
    job.claim()
    with open(job.directory / "output.txt", "ab") as output:
        process = subprocess.Popen([sys.executable, *job.command()], cwd=ROOT, stdout=output, stderr=output)
        while step_of(job) == 0 and process.poll() is None:
            time.sleep(0.01)
        while step_of(job) < moment * STEPS and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        process.wait()
    return step_of(job)


def step_of(job: Job) -> int:
    """The last step that a run has logged."""
    from experiments.training.run_directory import RunDirectory  # SB3 takes seconds to import

    path = job.run_directory()
    rows = RunDirectory(path).progress() if path else []
    return max((int(row["time/total_timesteps"]) for row in rows if row.get("time/total_timesteps")), default=0)


def same(job: Job, other: Job) -> bool:
    """Whether two finished runs have the same evaluations and the same weights."""
    import torch  # takes seconds to import

    from agents import find_agent
    from experiments.training.run_directory import RunDirectory

    tables, weights = [], []
    for run in (job.run(), other.run()):
        if run is None:
            return False
        rows = RunDirectory(run).evaluations()
        tables.append([{key: value for key, value in row.items() if key not in TIMES} for row in rows])
        model = find_agent(job.arguments[3]).algorithm.load(run / "last_model.zip", device="cpu")
        weights.append(model.policy.state_dict())
    return tables[0] == tables[1] and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def signalled(number: int) -> Callable[[Job, random.Random], tuple[int, int]]:
    """A fault: a signal at a random moment of training; gives the step it came at, and that of the last checkpoint."""

    def fault(job: Job, chance: random.Random) -> tuple[int, int]:
        step = start_and_send(job, number, chance.uniform(0.0, 0.95))
        return max(step, job.step()), job.step()

    return fault


def damaged(damage: Callable[[bytes], bytes], name: str) -> Callable[[Job, random.Random], tuple[int, int]]:
    """A fault: a process that is killed and, on top of that, a file of its newest checkpoint that is not as it was."""

    def fault(job: Job, chance: random.Random) -> tuple[int, int]:
        step = start_and_send(job, signal.SIGKILL, chance.uniform(0.5, 0.95))
        path = job.run_directory()
        assert path is not None
        checkpoints = sorted(path.glob("checkpoints/step_*"), key=lambda one: int(one.name[5:]))
        broken = checkpoints[-1] / name
        broken.write_bytes(damage(broken.read_bytes()))
        return max(step, job.step()), int(checkpoints[-2].name[5:])

    return fault


def flipped(content: bytes) -> bytes:
    """One bit of it."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


FAULTS = {
    "kill -9": (signalled(signal.SIGKILL), 20),
    "SIGTERM": (signalled(signal.SIGTERM), 3),
    "kill -9, and a flipped bit in the newest checkpoint's model": (damaged(flipped, "model.zip"), 3),
    "kill -9, and half of the newest checkpoint's model gone": (damaged(lambda x: x[: len(x) // 2], "model.zip"), 3),
}


def row_of(agent: str, fault: str, times: int | None = None) -> Row:
    """
    Inject a fault some times.

    :param agent: the agent
    :param fault: its name
    :param times: how often; None: as the table says
    :return: how many of the resumed runs are the same as one that had no fault, and what was lost
    """
    reference = job_of(agent, "without-a-fault")
    execute(reference)
    inject, usual = FAULTS[fault]
    chance, lost, equal = random.Random(f"{agent} {fault}"), [], 0
    for i in range(times or usual):
        job = job_of(agent, f"{list(FAULTS).index(fault)}-{i}")
        shutil.rmtree(job.directory, ignore_errors=True)
        step, checkpoint = inject(job, chance)
        lost.append(step - checkpoint)
        outcome = execute(job)
        equal += outcome == "finished" and same(reference, job)
        print(f"{agent}, {fault}, {i}: at {step}, went on from {checkpoint}, {outcome}, {equal} equal", flush=True)
    return dict(
        agent=agent,
        fault=fault,
        runs=times or usual,
        bit_equal=equal,
        steps_lost_mean=round(sum(lost) / len(lost)),
        steps_lost_most=max(lost),
    )


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code: 1 if a run was not the same
    """
    parser = ResultsParser("reliability.py", __doc__)
    parser.add_argument("--times", type=int, help="each fault (default: 20 kills, 3 of the others)")
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), help="some of them")
    arguments = parser.parse_args(argv)
    rows: list[Any] = [
        row_of(agent, fault, arguments.times) for agent in arguments.agents or AGENTS for fault in FAULTS
    ]
    write_results(arguments.output, "reliability", rows)
    if arguments.output == RESULTS:
        write_page()
    return int(any(row["bit_equal"] < row["runs"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
