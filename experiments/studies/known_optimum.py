"""Agents in tasks whose best policy is known: ``python experiments/studies/known_optimum.py [TASK ...]``.

Trains the suite ``experiments/suites/known_optimum.yaml``, as ``suite.py`` does, and measures each run's last model
against its task's optimum (`experiments/studies/measures.py`). Writes ``known_optimum_TASK.csv`` and ``.json`` to
``experiments/results/``, and a picture where there is something to see. What is finished in ``runs/suites/`` is not
trained again, so that a study that was stopped goes on, and one with more seeds trains those alone. Rows of other runs
stay in the tables, if today's suite would train them by the same command.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import ResultsParser, Row, write_results
from experiments.scheduling.local import train
from experiments.scheduling.suite_file import Entry, Suite, command_of, name_of, read_suite
from experiments.suite import RUNS
from experiments.training.errors import one_line_errors
from experiments.training.tables import read_csv

SUITE = Path(__file__).resolve().parents[1] / "suites" / "known_optimum.yaml"

# Of `experiments.studies.measures` and, where there is a picture, `pictures`.
MEASURES = {
    "flowrl/EnergyBandit": "energy_bandit",
    "flowrl/HiddenGoal": "hidden_goal",
    "flowrl/MultiGoal": "multi_goal",
    "flowrl/Corridor": "corridor",
    "flowrl/ReturnChain": "return_chain",
    "flowrl/NoisyLQR": "noisy_lqr",
}


def entries_of(
    tasks: list[str] | None = None, agents: list[str] | None = None, seeds: int | str | list[int] | None = None
) -> list[Entry]:
    """
    Runs of the suite.

    :param tasks: in these tasks; None: in all
    :param agents: of these agents; None: of all
    :param seeds: how many, or which (a list, or ``"0..4"``); None: as the file says
    :return: the runs
    :raises UsageError: for a task or an agent that the file does not have
    """
    return read_suite(SUITE, RUNS, dict(environments=tasks, agents=agents, seeds=seeds)).entries


def rows_of(entries: Iterable[Entry]) -> Iterator[Row]:
    """
    What the finished runs have learned.

    :param entries: of one task
    """
    from experiments.studies import measures  # torch takes seconds to import

    for entry in entries:
        run = entry.job.run()
        if run is None:
            continue
        distances: dict[str, Any] = getattr(measures, MEASURES[entry.env])(run)
        yield dict(agent=entry.agent, seed=entry.seed, **distances)


def rows_that_stay(path: Path, now: list[Row], entries: list[Entry]) -> dict[str, Row]:
    """
    Rows of a table whose runs are not measured now, and which the suite would train as they were trained.

    :param path: of the table, if there is one
    :param now: the rows that were measured now
    :param entries: all of the task
    :return: the rows by their runs' names; those of other agents, commands or columns are left out, and that is said
    """
    how = path.with_suffix(".json")
    commands = json.loads(how.read_text())["trained"]["commands"] if how.exists() else {}
    known = {(entry.agent, entry.seed): entry for entry in entries}
    measured = {(row["agent"], row["seed"]) for row in now}
    stay: dict[str, Row] = {}
    for row in read_csv(path):
        run = row["agent"], int(row["seed"])
        if run in measured:
            continue
        entry = known.get(run)
        if entry and list(row) == list(now[0]) and commands.get(name_of(entry)) == command_of(entry):
            stay[name_of(entry)] = dict(row)
        else:
            print(f"{path.name}: left out {run[0]}, seed {run[1]}, of other settings or columns")
    return stay


def draw(entries: list[Entry], path: Path) -> None:
    """
    The picture of a task, if there is one and the runs that it shows are here; else the one that is there stays.

    :param entries: of the task, one an agent; at least one
    :param path: where the picture goes
    """
    from experiments.studies import pictures

    make = getattr(pictures, MEASURES[entries[0].env], None)
    if make is None:
        return
    runs = {entry.agent: run for entry in entries if (run := entry.job.run()) is not None}
    missing = [entry.agent for entry in entries if entry.agent not in runs]
    if not runs:
        return
    if path.exists() and missing:
        print(f"{path} stays as it is: seed {entries[0].seed} of {', '.join(missing)} is not here")
        return
    make(runs).savefig(path, dpi=160)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("known_optimum.py", __doc__, selecting=("agents", "seeds", "jobs", "collect"))
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=[], help="some of the suite's (default: all)")
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="some of the suite's")
    parser.add_argument("--seeds", help="how many, or FIRST..LAST (default: the suite's)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--collect", action="store_true", help="train nothing: measure what there is")
    arguments = parser.parse_args(argv)
    entries = entries_of(arguments.tasks or None, arguments.agents, arguments.seeds)
    for entry in entries:
        entry.job.check()
    if not arguments.collect:
        train([entry.job for entry in entries], arguments.jobs)
    from experiments.scheduling.tidy import measured  # SB3 takes seconds to import

    for task in dict.fromkeys(entry.environment for entry in entries):
        of_task = [entry for entry in entries if entry.environment == task]
        rows, whole = list(rows_of(of_task)), entries_of([task])
        if rows:
            stem = arguments.output / f"known_optimum_{task}".replace("-", "_")
            kept = rows_that_stay(stem.with_suffix(".csv"), rows, whole)
            how = measured(Suite(task, of_task), stem.with_suffix(".json"), kept)
            order = list(dict.fromkeys(entry.agent for entry in whole))
            table = sorted([*kept.values(), *rows], key=lambda row: (int(row["seed"]), order.index(row["agent"])))
            write_results(arguments.output, stem.name, table, how)
            draw([entry for entry in whole if entry.seed == 0], stem.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
