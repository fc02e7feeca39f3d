"""Agents in tasks whose best policy is known: ``python experiments/studies/known_optimum.py [TASK ...]``.

Trains every agent of a task with ``experiments/run.py``, one run a seed, and measures each run's last model against
the task's optimum (`experiments/studies/measures.py`). Writes ``known_optimum_TASK.csv`` and ``.json`` to
``experiments/results/``. The runs stay in ``runs/known_optimum/``: what is finished there is not trained again, so that
a study that was stopped goes on, and one with more seeds trains those alone.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # agents/ and experiments/ are not installed

from experiments.reports.results import ResultsParser, Row, write_results

RUNS = Path("runs/known_optimum")
LAST_MODEL = "last_model.zip"


@dataclass(frozen=True)
class Task:
    """
    An environment with a known optimum, and who learns in it.

    :param env: its name
    :param agents: each with its flow, "" for the Gaussian of Stable-Baselines3
    :param measure: of `experiments.studies.measures`, by name
    :param options: of the environment, as ``run.py --env-set`` takes them
    :param layers: of the spline flow, where not the recipe's own number
    :param arguments: further ones of ``run.py``
    """

    env: str
    agents: list[tuple[str, str]]
    measure: str
    options: list[str] = field(default_factory=list)
    layers: int | None = None
    arguments: list[str] = field(default_factory=list)


OFF_POLICY = [("flow-sac", "nsf"), ("nfq", "nsf"), ("flow-sac", "gaussian")]
ON_POLICY = [("flow-ppo", "nsf"), ("snf", "nsf"), ("flow-ppo", "gaussian")]
EVERY = ["--eval-episodes", "200", "--eval-every", "10000"]

TASKS = {
    "energy-bandit-4": Task("EnergyBandit", OFF_POLICY, "energy_bandit", arguments=["--eval-every", "0"]),
    "energy-bandit-40": Task(
        "EnergyBandit", OFF_POLICY, "energy_bandit", ["n_modes=40"], layers=4, arguments=["--eval-every", "0"]
    ),
    "hidden-goal": Task("HiddenGoal", [*ON_POLICY, *OFF_POLICY], "hidden_goal", arguments=EVERY),
    "multi-goal": Task("MultiGoal", OFF_POLICY, "multi_goal", arguments=["--eval-every", "0"]),
    "corridor-2": Task("Corridor", [*ON_POLICY, *OFF_POLICY], "corridor", ["dimensions=2"], arguments=EVERY),
    "corridor-8": Task("Corridor", [*ON_POLICY, *OFF_POLICY], "corridor", ["dimensions=8"], arguments=EVERY),
    "noisy-lqr": Task("NoisyLQR", [("nfq", "nsf"), ("nfq", "affine")], "noisy_lqr", arguments=["--eval-every", "0"]),
}


@dataclass(frozen=True)
class Job:
    """One run: a task's agent with a seed."""

    task: str
    agent: str
    flow: str
    seed: int

    @property
    def directory(self) -> Path:
        """Where its run directory is made."""
        return RUNS / self.task / f"{self.agent}-{self.flow or 'sb3'}" / f"seed{self.seed}"

    def run(self) -> Path | None:
        """Its run directory, once it is finished."""
        return next((model.parent for model in sorted(self.directory.rglob(LAST_MODEL))), None)

    def command(self) -> list[str]:
        """What trains it."""
        task = TASKS[self.task]
        command = ["experiments/run.py", "--env", f"flowrl/{task.env}", "--agent", self.agent, "--seed", str(self.seed)]
        command += ["--flow", self.flow] if self.flow else []
        if task.layers and self.flow == "nsf":
            command += ["--set", f"policy_kwargs.flow_kwargs={{'layers':{task.layers}}}"]
        command += [word for option in task.options for word in ("--env-set", option)]
        command += ["--checkpoint-every", "0", "--no-progress", "--logdir", str(self.directory)]
        return command + task.arguments


def train(jobs: list[Job], side_by_side: int) -> None:
    """
    Train what is not trained yet.

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
            with open(job.directory / "output.txt", "wb") as output:
                process = subprocess.Popen(
                    [sys.executable, *job.command()], cwd=ROOT, env=environment, stdout=output, stderr=output
                )
            running.append((job, process))
        time.sleep(0.5)
        for job, process in [one for one in running if one[1].poll() is not None]:
            running.remove((job, process))
            said = "" if process.returncode == 0 else f" failed: see {job.directory / 'output.txt'}"
            print(f"{job.task} {job.agent} {job.flow} seed {job.seed}{said}, {len(waiting)} to go", flush=True)


def rows_of(jobs: list[Job]) -> Iterator[Row]:
    """
    What the finished runs have learned.

    :param jobs: of one task
    """
    from experiments.studies import measures  # torch takes seconds to import

    for job in jobs:
        run = job.run()
        if run is None:
            continue
        measured: dict[str, Any] = getattr(measures, TASKS[job.task].measure)(run)
        yield dict(agent=job.agent, flow=job.flow or "SB3's Gaussian", seed=job.seed, **measured)


def draw(task: str, jobs: list[Job], path: Path) -> None:
    """
    The picture of a task, if there is one, of each agent's first seed.

    :param task: its name
    :param jobs: one an agent
    :param path: where the picture goes
    """
    from experiments.studies import pictures

    make = getattr(pictures, TASKS[task].measure, None)
    runs = {f"{job.agent}, {job.flow}": run for job in jobs if (run := job.run()) is not None}
    if make is not None and runs:
        make(runs).savefig(path, dpi=160)


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("known_optimum.py", __doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=[], help=f"{', '.join(TASKS)} (default: all)")
    parser.add_argument("--agents", nargs="+", help="of the task's agents, these alone")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    arguments = parser.parse_args(argv)
    for name in arguments.tasks:
        if name not in TASKS:
            parser.error(f"unknown task {name!r}: the tasks are {', '.join(TASKS)}")
    jobs = [
        Job(name, agent, flow, seed)
        for name in arguments.tasks or TASKS
        for seed in range(arguments.seeds)
        for agent, flow in TASKS[name].agents
        if not arguments.agents or agent in arguments.agents
    ]
    train(jobs, arguments.jobs)
    for name in arguments.tasks or TASKS:
        rows = list(rows_of([job for job in jobs if job.task == name]))
        if rows:
            stem = f"known_optimum_{name}".replace("-", "_")
            write_results(arguments.output, stem, rows)
            draw(name, [job for job in jobs if job.task == name and job.seed == 0], arguments.output / f"{stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
