"""Many runs as one: agents x environments x seeds, ``python experiments/suite.py experiments/suites/mujoco.yaml``.

Trains what is not trained yet, side by side on this machine or on a Ray cluster, and writes one tidy table. Its state
is its files in ``runs/suites/NAME/``: stopped in any way and started again, it goes on from the last checkpoints; with
more seeds, steps or environments it trains those alone; two suites at once share the work.
"""

import argparse
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

from rich.console import Console
from rich.live import Live

from experiments.run import positive
from experiments.scheduling import local, ray_cluster
from experiments.scheduling.job import FAILED, INTERRUPTED, Job
from experiments.scheduling.suite_file import Entry, Suite, name_of, read_suite
from experiments.training.errors import UsageError, one_line_errors
from experiments.training.tables import write_csv

RUNS = Path("runs/suites")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: the arguments; those of the process by default
    :return: the arguments
    """
    parser = argparse.ArgumentParser(prog="suite.py", description="Train agents x environments x seeds.")
    parser.add_argument("suite", type=Path, metavar="FILE", help="a YAML file, as those in experiments/suites/")
    parser.add_argument("--steps", type=positive, help="of each run, in place of the file's")
    parser.add_argument("--seeds", help="how many, or FIRST..LAST")
    parser.add_argument("--environments", nargs="+", metavar="ENV", help="some of the file's")
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="some of the file's")
    parser.add_argument("--jobs", type=positive, help="runs side by side (default: as many as processors / threads)")
    parser.add_argument("--threads", type=positive, default=1, help="of each run (default: 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="train on a Ray cluster; local: on Ray in this process")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"where the runs go (default: {RUNS})")
    parser.add_argument(
        "--output",
        type=Path,
        help="add the chosen runs that are finished to NAME.csv, NAME_seconds.csv and NAME.json there",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained and for how long")
    parser.add_argument("--collect", action="store_true", help="train nothing: write what there is")
    return parser.parse_args(argv)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code: 1 if a run failed, 130 if the suite was interrupted
    """
    arguments = parse_arguments(argv)
    if arguments.collect and arguments.dry_run:
        raise UsageError("--collect writes what there is, and --dry-run writes nothing: drop one of them")
    overrides = {name: getattr(arguments, name) for name in ("steps", "seeds", "environments", "agents")}
    arguments.runs = arguments.runs.absolute()
    suite = read_suite(arguments.suite, arguments.runs, overrides)
    if arguments.ray and arguments.jobs:
        raise UsageError("--jobs: a Ray cluster runs as many as it has processors; limit them there, or drop --ray")
    side_by_side = arguments.jobs or max(local.processors() // arguments.threads, 1)
    if arguments.dry_run:
        say_what_is_left(suite, side_by_side)
        return 0
    outcomes: local.Outcomes = {}
    if not arguments.collect:
        jobs = [entry.job for entry in suite.entries]
        with Display(suite, Console()) as display:
            if arguments.ray:
                outcomes = ray_cluster.train(jobs, arguments.ray, arguments.threads, display.show)
            else:
                outcomes = local.train(jobs, side_by_side, arguments.threads, display.show)
    directory = arguments.output or arguments.runs / suite.name
    if arguments.output is None:
        write(with_the_rest(suite, arguments), directory, add=False)
    else:  # one that is in the midst would end the comparison of its environment at its own last step
        finished = [entry for entry in suite.entries if entry.job.run() is not None]
        write(Suite(suite.name, finished), directory, add=True)
    failed = {entry: outcomes[entry.job] for entry in suite.entries if outcomes.get(entry.job, "").startswith(FAILED)}
    for entry, outcome in failed.items():
        print(f"{name_of(entry)} {outcome}", file=sys.stderr)
    return 1 if failed else INTERRUPTED if "interrupted" in outcomes.values() else 0


class Display:
    """
    A live table where there is a terminal, a line for each run that ended elsewhere.

    :param suite: the suite
    :param console: where
    """

    def __init__(self, suite: Suite, console: Console) -> None:
        self.suite, self.console = suite, console
        self.said: set[Job] = {entry.job for entry in suite.entries if entry.job.run() is not None}
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "Display":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, in_hand: set[Job], outcomes: local.Outcomes) -> None:
        """
        Show where the suite stands.

        :param in_hand: the jobs that are being trained
        :param outcomes: of those that ended
        """
        if self.live is not None:
            from experiments.scheduling.progress import table  # SB3 takes seconds to import

            self.live.update(table(self.suite, in_hand, outcomes), refresh=True)
        for entry in self.suite.entries:
            if entry.job in outcomes and entry.job not in self.said:
                self.said.add(entry.job)
                left = sum(other.job not in self.said for other in self.suite.entries)
                what = f"{name_of(entry)}: {outcomes[entry.job]}, {left} to go"
                print(what, flush=True)


def say_what_is_left(suite: Suite, side_by_side: int) -> None:
    """
    Print every run that is not finished, and how long all of them will take.

    :param suite: the suite
    :param side_by_side: how many runs at once
    """
    from experiments.scheduling.progress import remaining_seconds
    from experiments.scheduling.tidy import speed

    left = [entry for entry in suite.entries if entry.job.run() is None]
    for entry in left:
        steps = f"{entry.job.step():,} of {entry.job.steps:,} steps" if entry.job.steps else "as run.py says"
        print(f"{name_of(entry)}: {steps}")
    total, unknown = remaining_seconds(suite, speed(suite))
    print(f"{len(left)} of {len(suite.entries)} runs to train, {side_by_side} side by side")
    if len(left) > unknown:
        about = timedelta(seconds=round(total / side_by_side))
        print(f"about {about} at the speed of the runs so far" + (f", and {unknown} runs unknown" if unknown else ""))
    elif left:
        print("for how long is not known before one of them is evaluated")


def with_the_rest(suite: Suite, arguments: argparse.Namespace) -> Suite:
    """
    A suite with all that its file says, so that the table of a part replaces none of the whole.

    :param suite: the part that was chosen
    :param arguments: the command line
    :return: its entries, the others of the file, and finished runs of more seeds, which an earlier command line chose
    """
    try:
        whole = read_suite(arguments.suite, arguments.runs).entries
    except UsageError:  # the command line says what the file leaves out
        whole = []
    return Suite(suite.name, list(dict.fromkeys([*suite.entries, *whole, *finished_seeds(suite.name, arguments)])))


def finished_seeds(name: str, arguments: argparse.Namespace) -> list[Entry]:
    """
    The finished runs of all seeds that there are, if they are of the settings that the file has now.

    :param name: the suite's
    :param arguments: the command line
    """
    numbers = {path.name.removeprefix("seed") for path in (arguments.runs / name).glob("*/*/seed*")}
    seeds = sorted(int(number) for number in numbers if number.isdecimal())
    if not seeds:
        return []
    try:
        entries = read_suite(arguments.suite, arguments.runs, dict(seeds=seeds, steps=arguments.steps)).entries
    except UsageError:
        return []
    return [entry for entry in entries if entry.job.run() is not None and entry.job.trained() == entry.job.arguments]


def write(suite: Suite, directory: Path, add: bool) -> None:
    """
    Write ``NAME.csv``, ``NAME_seconds.csv`` and how they were made.

    :param suite: the suite
    :param directory: where
    :param add: whether runs that are in the tables there, and are not here, stay in them
    """
    from experiments.reports.results import write_results
    from experiments.scheduling.tidy import (
        made,
        made_with_what_was_there,
        not_behind,
        seconds,
        tidy,
        with_what_was_there,
    )

    rows = tidy(suite)
    if not rows:
        print("nothing was evaluated yet")
        return
    path, path_of_times = directory / f"{suite.name}.csv", directory / f"{suite.name}_seconds.csv"
    if add:
        suite = not_behind(suite, path)
        rows = tidy(suite)
    times, how = seconds(suite), made(suite)
    if add:
        rows, times = with_what_was_there(rows, path), with_what_was_there(times, path_of_times)
        how = made_with_what_was_there(how, path.with_suffix(".json"))
    write_results(directory, suite.name, rows, how)
    if times:  # all that is here may be behind a table that has none
        write_csv(path_of_times, list(times[0]), times)


if __name__ == "__main__":
    sys.exit(main())
