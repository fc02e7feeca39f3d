"""What NFQ takes along when goals move: ``python experiments/studies/transfer.py``.

Needs the runs of ``known_optimum.py multi-goal``. Two of MultiGoal's goals move; NFQ learns the new task from the
flow, the values and the temperature of such a run, and from scratch. After every 500 steps the goals that 100 sampled
episodes reach are counted: the entropy of their histogram is at most log 4 = 1.386 nats. A policy masters the task from
the step on after which 90 episodes reach a goal, with an entropy of 1.2. Writes ``transfer.csv`` and ``.json`` to
``experiments/results/``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import gymnasium as gym
import torch

import flowrl  # noqa: F401  registers the environment
from agents import hyperparameters, make_agent, model_arguments
from experiments.reports.results import ResultsParser, Row, write_results
from experiments.studies.known_optimum import entries_of
from experiments.studies.measures import entropy_of, goal_counts
from experiments.training.environments import Environment, make_vector_environment
from experiments.training.errors import UsageError, one_line_errors
from experiments.training.fine_tuning import MAX_STEPS_BEFORE_LEARNING, take_policy
from experiments.training.run_directory import RunDirectory

GOALS = ((4.0, 3.0), (-5.0, 0.0), (0.0, 5.0), (-3.0, -4.0))  # the first and the last moved, by as much as 3
EVERY = 500
ENTROPY = 1.2  # nats, which counts as reaching all goals
REACHED = 90  # of 100 episodes, at least: those few that chance leads to a goal are spread evenly too


def learn(seed: int, source: RunDirectory | None, steps: int) -> list[Row]:
    """
    :param seed: of everything
    :param source: the run to start from; None: from scratch
    :param steps: how long
    :return: a row every so many steps
    """
    environment = Environment("flowrl/MultiGoal-v0", "MultiGoal", dict(goals=GOALS))
    settings = hyperparameters("nfq", environment.name)
    env = make_vector_environment(environment, 1, settings["normalize"], settings["gamma"])
    settings["learning_rate"] = 1e-3
    if source is not None:
        settings["learning_starts"] = MAX_STEPS_BEFORE_LEARNING
    model = make_agent("nfq", env, model_arguments(settings), seed=seed, device="cpu")
    if source is not None:
        take_policy(model, source)
    envs = [gym.make(environment.id, **environment.kwargs) for _ in range(100)]
    rows = []
    for step in range(0, steps + 1, EVERY):
        if step:
            model.learn(EVERY, reset_num_timesteps=False)
        counts = goal_counts(model, envs)
        rows.append(
            dict(
                start="scratch" if source is None else "transfer",
                seed=seed,
                step=step,
                **{f"goal_{i + 1}": int(count) for i, count in enumerate(counts)},
                entropy=round(entropy_of(counts), 4),
            )
        )
        print(rows[-1], flush=True)
    return rows


def first_step(rows: list[Row]) -> int | None:
    """The first step from which enough episodes reach a goal, and all goals are reached, twice in a row."""
    goals = [name for name in rows[0] if name.startswith("goal_")]
    good = [row["entropy"] >= ENTROPY and sum(row[name] for name in goals) >= REACHED for row in rows]
    return next((row["step"] for row, now, later in zip(rows, good, good[1:]) if now and later), None)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("transfer.py", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--steps", type=int, default=15_000, help="of each (default: 15000)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in range(arguments.seeds):
        (entry,) = entries_of(["multi-goal"], ["nfq nsf"], [seed])
        path = entry.job.run()
        if path is None:
            raise UsageError(
                f"no run of nfq in MultiGoal with seed {seed} is finished: python experiments/studies/known_optimum.py "
                "multi-goal --agents 'nfq nsf'"
            )
        for source in (None, RunDirectory.open(path)):
            one = learn(seed, source, arguments.steps)
            print(f"seed {seed}, {one[0]['start']}: all goals from step {first_step(one)}", flush=True)
            rows += one
    write_results(arguments.output, "transfer", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
