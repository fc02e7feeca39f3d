"""Agents in tasks whose best policy is known: ``python experiments/studies/known_optimum.py [TASK ...]``.

Trains every agent of a task with ``experiments/run.py``, one run a seed, and measures each run's last model against
the task's optimum (`experiments/studies/measures.py`). Writes ``known_optimum_TASK.csv`` and ``.json`` to
``experiments/results/``. The runs stay in ``runs/known_optimum/``: what is finished there is not trained again, so that
a study that was stopped goes on, and one with more seeds trains those alone.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import ResultsParser, Row, write_results
from experiments.scheduling.job import Job
from experiments.scheduling.local import train

RUNS = Path("runs/known_optimum")


@dataclass(frozen=True)
class Task:
    """
    An environment with a known optimum, and who learns in it.

    :param env: its name
    :param agents: each with its flow
    :param measure: of `experiments.studies.measures`, by name
    :param options: of the environment, as ``run.py --env-set`` takes them
    :param arguments: further ones of ``run.py``, for all agents
    :param of_agent: further ones, by ``"AGENT FLOW"``
    """

    env: str
    agents: list[tuple[str, str]]
    measure: str
    options: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    of_agent: dict[str, list[str]] = field(default_factory=dict)


OFF_POLICY = [("flow-sac", "nsf"), ("nfq", "nsf"), ("flow-sac", "gaussian")]
ON_POLICY = [("flow-ppo", "nsf"), ("snf", "nsf"), ("flow-ppo", "gaussian")]
SELDOM = ["--eval-every", "0"]
OFTEN = ["--eval-episodes", "1000", "--eval-every", "50000"]
FOUR_LAYERS = ["--set", "policy_kwargs.flow_kwargs={'layers':4}"]
SIX_LAYERS = ["--set", "policy_kwargs.flow_kwargs={'layers':6}"]
# A mode that is left costs less by a path with more noise, and by more layers after it (docs/snf.md).
NOISY = [*FOUR_LAYERS, "--set", "policy_kwargs.noise_std=0.85", "--set", "ent_coef=0.004"]

TASKS = {
    "energy-bandit-4": Task("EnergyBandit", OFF_POLICY, "energy_bandit", arguments=SELDOM),
    "energy-bandit-40": Task(
        "EnergyBandit",
        OFF_POLICY,
        "energy_bandit",
        ["n_modes=40"],
        arguments=SELDOM,
        of_agent={"flow-sac nsf": [*SIX_LAYERS, "--steps", "60000"], "nfq nsf": FOUR_LAYERS},
    ),
    "hidden-goal": Task(
        "HiddenGoal", [*ON_POLICY, *OFF_POLICY], "hidden_goal", arguments=OFTEN, of_agent={"snf nsf": NOISY}
    ),
    "multi-goal": Task("MultiGoal", OFF_POLICY, "multi_goal", arguments=SELDOM),
    "corridor-2": Task("Corridor", [*ON_POLICY, *OFF_POLICY], "corridor", ["dimensions=2"], arguments=OFTEN),
    "corridor-8": Task(
        "Corridor",
        [("flow-ppo", "triangular"), ("flow-ppo", "gaussian"), ("flow-sac", "triangular"), ("flow-sac", "gaussian")],
        "corridor",
        ["dimensions=8"],
        arguments=OFTEN,
    ),
    "return-chain": Task("ReturnChain", [("nfac", "triangular")], "return_chain", arguments=SELDOM),
    "return-chain-cvar": Task(
        "ReturnChain", [("nfac", "triangular")], "return_chain", arguments=[*SELDOM, "--set", "risk=cvar:0.25"]
    ),
    "noisy-lqr": Task("NoisyLQR", [("nfq", "nsf")], "noisy_lqr", arguments=SELDOM),
}


@dataclass(frozen=True)
class Contender:
    """A task's agent with a seed."""

    task: str
    agent: str
    flow: str
    seed: int

    @property
    def job(self) -> Job:
        """Its run."""
        task = TASKS[self.task]
        words = ["--env", f"flowrl/{task.env}", "--agent", self.agent, "--flow", self.flow, "--seed", str(self.seed)]
        words += [word for option in task.options for word in ("--env-set", option)]
        words += [*task.arguments, *task.of_agent.get(f"{self.agent} {self.flow}", [])]
        return Job(RUNS / self.task / f"{self.agent}-{self.flow}" / f"seed{self.seed}", tuple(words))


def rows_of(contenders: list[Contender]) -> Iterator[Row]:
    """
    What the finished runs have learned.

    :param contenders: of one task
    """
    from experiments.studies import measures  # torch takes seconds to import

    for one in contenders:
        run = one.job.run()
        if run is None:
            continue
        measured: dict[str, Any] = getattr(measures, TASKS[one.task].measure)(run)
        yield dict(agent=one.agent, flow=one.flow, seed=one.seed, **measured)


def draw(task: str, contenders: list[Contender], path: Path) -> None:
    """
    The picture of a task, if there is one, of each agent's first seed.

    :param task: its name
    :param contenders: one an agent
    :param path: where the picture goes
    """
    from experiments.studies import pictures

    make = getattr(pictures, TASKS[task].measure, None)
    runs = {f"{one.agent}, {one.flow}": run for one in contenders if (run := one.job.run()) is not None}
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
    parser.add_argument("--flows", nargs="+", help="of their flows, these alone")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    arguments = parser.parse_args(argv)
    for name in arguments.tasks:
        if name not in TASKS:
            parser.error(f"unknown task {name!r}: the tasks are {', '.join(TASKS)}")
    contenders = [
        Contender(name, agent, flow, seed)
        for name in arguments.tasks or TASKS
        for seed in range(arguments.seeds)
        for agent, flow in TASKS[name].agents
        if (not arguments.agents or agent in arguments.agents) and (not arguments.flows or flow in arguments.flows)
    ]
    train([one.job for one in contenders], arguments.jobs)
    for name in arguments.tasks or TASKS:
        of_task = [one for one in contenders if one.task == name]
        rows = list(rows_of(of_task))
        if rows:
            stem = f"known_optimum_{name}".replace("-", "_")
            write_results(arguments.output, stem, rows)
            draw(name, [one for one in of_task if one.seed == 0], arguments.output / f"{stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
