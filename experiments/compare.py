"""Learning curves of several runs, a table and a picture: ``python experiments/compare.py RUN_DIR... --name cheetah``.

Writes ``NAME.csv`` (a row an evaluation), ``NAME.json`` (commands, versions, commits) and ``NAME.png`` to
``runs/compare``; documents quote what ``--output experiments/results`` keeps.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

from experiments.reports.learning_curves import collect, draw, metadata
from experiments.reports.results import write_results
from experiments.training.errors import UsageError, one_line_errors
from experiments.training.run_directory import RunDirectory


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = argparse.ArgumentParser(prog="compare.py", description="Learning curves of several runs.")
    parser.add_argument("runs", metavar="RUN_DIR", type=Path, nargs="+", help="what experiments/run.py wrote")
    parser.add_argument("--name", required=True, help="of the files to write")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="where (default: runs/compare)")
    arguments = parser.parse_args(argv)
    if not arguments.name or Path(arguments.name).name != arguments.name:
        raise UsageError(f"--name {arguments.name} must be a file's name; --output says in which directory")
    runs = [RunDirectory.open(path) for path in arguments.runs]
    rows = collect(runs)
    figure = draw(rows)
    write_results(arguments.output, arguments.name, rows, made=metadata(runs))
    figure.savefig(arguments.output / f"{arguments.name}.png", dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
