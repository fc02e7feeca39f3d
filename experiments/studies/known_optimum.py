"""Agents in tasks whose best policy is known: ``python experiments/studies/known_optimum.py [TASK ...]``.

Trains the suite ``experiments/suites/known_optimum.yaml``, as ``suite.py`` does, and measures each run's last model
against its task's optimum (`experiments/studies/measures.py`). Writes ``known_optimum_TASK.csv`` and ``.json`` to
``experiments/results/``, and a picture where there is something to see. What is finished in ``runs/suites/`` is not
trained again, so that a study that was stopped goes on, and one with more seeds trains those alone.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import ResultsParser, Row, write_results
from experiments.scheduling.local import train
from experiments.scheduling.suite_file import Entry, Suite, read_suite
from experiments.suite import RUNS
from experiments.training.errors import one_line_errors

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
    tasks: list[str] | None = None, agents: list[str] | None = None, seeds: int | list[int] | None = None
) -> list[Entry]:
    """
    Runs of the suite.

    :param tasks: in these tasks; None: in all
    :param agents: of these agents; None: of all
    :param seeds: how many, or which; None: as the file says
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


def draw(entries: list[Entry], path: Path) -> None:
    """
    The picture of a task, if there is one.

    :param entries: of the task, one an agent; at least one
    :param path: where the picture goes
    """
    from experiments.studies import pictures

    make = getattr(pictures, MEASURES[entries[0].env], None)
    runs = {entry.agent: run for entry in entries if (run := entry.job.run()) is not None}
    if make is not None and runs:
        make(runs).savefig(path, dpi=160)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("known_optimum.py", __doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=[], help="some of the suite's (default: all)")
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="some of the suite's")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--collect", action="store_true", help="train nothing: measure what there is")
    arguments = parser.parse_args(argv)
    entries = entries_of(arguments.tasks or None, arguments.agents, arguments.seeds)
    if not arguments.collect:
        train([entry.job for entry in entries], arguments.jobs)
    from experiments.scheduling.tidy import measured  # SB3 takes seconds to import

    for task in dict.fromkeys(entry.environment for entry in entries):
        of_task = [entry for entry in entries if entry.environment == task]
        rows = list(rows_of(of_task))
        if rows:
            stem = f"known_optimum_{task}".replace("-", "_")
            write_results(arguments.output, stem, rows, measured(Suite(task, of_task)))
            draw([entry for entry in of_task if entry.seed == 0], arguments.output / f"{stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
