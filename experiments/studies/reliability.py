"""What is lost when a run is killed, stopped or damaged: ``make reliability``.

Trains one run of each agent to its end; then others, the same but for a fault at a random moment, which are resumed as
`experiments/suite.py` resumes runs. Compares their tables and weights with those of the first, to the last bit. Writes
``reliability.csv`` and ``.json`` to ``experiments/results/``, and ``docs/reliability.md`` anew.
"""

import random
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import RESULTS, ResultsParser, Row, write_results
from experiments.scheduling.job import Job, execute
from experiments.studies.faults import (
    Inject,
    broken_environment,
    damaged,
    filled,
    flipped,
    signalled,
    with_mounts_of_our_own,
    worker_killed,
)
from experiments.studies.reliability_page import write_page

RUNS = Path("runs/reliability")
STEPS, CHECKPOINT_EVERY = 2_000, 250
SMALL = ["--set", "policy_kwargs.net_arch=[64,64]", "--eval-every", "500", "--eval-episodes", "2"]
OFF_POLICY = ["--set", "learning_starts=200", *SMALL]
AGENTS = {
    "flow-sac": OFF_POLICY,
    "flow-ppo": ["--flow", "triangular", "--set", "n_steps=64", "--num-envs", "2", *SMALL],
    "nfac": OFF_POLICY,
}
TIMES = {"wall_seconds", "training_seconds", "steps_per_second"}  # the columns of evaluations.csv that are no results


def job_of(agent: str, name: str, words: Sequence[str] = ()) -> Job:
    """
    :param agent: its name
    :param name: of the run
    :param words: further ones of its command
    :return: the run
    """
    all_words = ("--env", "Pendulum", "--agent", agent, "--seed", "0", *AGENTS[agent], *words)
    return Job((RUNS / agent / name).absolute(), all_words, STEPS, CHECKPOINT_EVERY)


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


def nowhere(agent: str, chance: random.Random) -> list[str]:
    """No further words of a run's command."""
    return []


def nan_somewhere(agent: str, chance: random.Random) -> list[str]:
    """An environment that gives NaN late in the run: one that is made anew, or to evaluate, does not come so far."""
    steps_of_each = STEPS // (2 if "--num-envs" in AGENTS[agent] else 1)
    after = round(chance.uniform(0.6, 0.95) * steps_of_each)
    return ["--env", "experiments.studies.nan_pendulum:NanPendulum", "--env-set", f"after={after}", "--eval-every", "0"]


@dataclass(frozen=True)
class Fault:
    """
    What happens to runs.

    :param inject: what does it
    :param times: how often, by default
    :param words: of the run's command, beside the agent's
    :param reference: those of the run that it is compared with
    :param is_exact: whether the resumed run is to be the same to the last bit; else it has to be finished
    """

    inject: Inject
    times: int = 3
    words: Callable[[str, random.Random], list[str]] = nowhere
    reference: tuple[str, ...] = ()
    is_exact: bool = True


DISK = "a full disk, for some seconds"
WORKERS = ("--num-envs", "2", "--vec-env", "subproc")
FAULTS = {
    "kill -9": Fault(signalled(signal.SIGKILL), times=20),
    "SIGTERM": Fault(signalled(signal.SIGTERM)),
    "kill -9, and a flipped bit in the newest checkpoint's model": Fault(damaged(flipped, "model.zip")),
    "kill -9, and half of the newest checkpoint's model gone": Fault(
        damaged(lambda content: content[: len(content) // 2], "model.zip")
    ),
    DISK: Fault(filled),
    "a worker of SubprocVecEnv killed": Fault(worker_killed, words=lambda *_: list(WORKERS), reference=WORKERS),
    "an observation that is NaN": Fault(broken_environment, words=nan_somewhere, is_exact=False),
}


def row_of(agent: str, name: str, times: int | None = None) -> Row:
    """
    Inject a fault some times.

    :param agent: the agent
    :param name: of the fault
    :param times: how often; None: as the table says
    :return: how many of the resumed runs are the same as one that had no fault, and what was lost
    """
    fault = FAULTS[name]
    times = times or fault.times
    reference = job_of(agent, "-".join(("without-a-fault", *fault.reference)), fault.reference)
    execute(reference)
    chance, lost, finished, equal = random.Random(f"{agent} {name}"), [], 0, 0
    for i in range(times):
        job = job_of(agent, f"{list(FAULTS).index(name)}-{i}", fault.words(agent, chance))
        shutil.rmtree(job.directory, ignore_errors=True)
        step, checkpoint = fault.inject(job, chance)
        lost.append(step - checkpoint)
        outcome = execute(job)
        finished += outcome == "finished"
        equal += outcome == "finished" and same(reference, job)
        print(f"{agent}, {name}, {i}: at {step}, went on from {checkpoint}, {outcome}, {equal} equal", flush=True)
    return dict(
        agent=agent,
        fault=name,
        runs=times,
        finished=finished,
        bit_equal=equal if fault.is_exact else "",
        steps_lost_mean=round(sum(lost) / len(lost)),
        steps_lost_most=max(lost),
    )


def is_as_promised(row: Row) -> bool:
    """Whether all runs of a row were finished, and are the same where they are to be."""
    return row["finished"] == row["runs"] and row["bit_equal"] in (row["runs"], "")


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code: 1 if a run was not the same
    """
    parser = ResultsParser("reliability.py", __doc__)
    parser.add_argument("--times", type=int, help="each fault (default: 20 kills, 3 of the others)")
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS), help="some of them")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="some of them")
    arguments = parser.parse_args(argv)
    if DISK in arguments.faults:
        with_mounts_of_our_own()
    rows = [row_of(agent, fault, arguments.times) for agent in arguments.agents for fault in arguments.faults]
    write_results(arguments.output, "reliability", rows)
    if arguments.output == RESULTS:
        write_page()
    return int(not all(map(is_as_promised, rows)))


if __name__ == "__main__":
    sys.exit(main())
