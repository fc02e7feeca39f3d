"""Where results that documents quote are kept, and their one writer: a table, and beside it how it was made."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.training.provenance import git_state, versions
from experiments.training.tables import write_csv

RESULTS = Path(__file__).resolve().parents[1] / "results"
UNPUBLISHED = Path("runs")

Row = dict[str, Any]


class ResultsParser(argparse.ArgumentParser):
    """
    The command line of a script that writes results.

    Documents quote what the defaults of a script gave: results of any other settings go elsewhere, and so do those of
    runs that the command line names, unless ``--output`` says that they shall be published.

    :param script: its file's name
    :param document: its docstring, whose first line describes it
    :param selecting: its options that say which rows of a table are made, and how many at once, and change none
    :param runs: which runs its command line names; None: it names none
    """

    def __init__(
        self, script: str, document: str | None, selecting: Sequence[str] = (), runs: str | None = None
    ) -> None:
        super().__init__(prog=script, description=document.splitlines()[0] if document else None)
        self.harmless = {"help", "output", *selecting}
        self.unpublished = UNPUBLISHED / Path(script).stem
        self.takes_runs = runs is not None
        where = f"where (default: experiments/results with the default settings, {self.unpublished} with any others)"
        if self.takes_runs:
            self.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help=runs)
            where = f"where (default: {self.unpublished}; experiments/results is for what documents quote)"
        if selecting:
            where += f"; {', '.join(f'--{name}' for name in selecting)} are no such settings"
        self.add_argument("--output", type=Path, help=where)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = super().parse_args(args, namespace)
        settings = [a for a in self._actions if a.option_strings and a.dest not in self.harmless]
        changed = [a.option_strings[-1] for a in settings if getattr(arguments, a.dest) != a.default]
        arguments.output = arguments.output or (self.unpublished if changed or self.takes_runs else RESULTS)
        if changed and arguments.output.resolve() == RESULTS:
            self.error(
                f"--output {arguments.output} is for results of the default settings: drop {' and '.join(changed)}, or "
                f"write to --output {self.unpublished}"
            )
        return arguments


def write_results(directory: Path, name: str, rows: list[Row], made: Any = None) -> None:
    """
    Write ``NAME.csv`` and ``NAME.json``.

    :param directory: where; made if it is not there
    :param name: of the files
    :param rows: the table, all rows with the same keys
    :param made: how it was made; by default this process's command, with versions and commit
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(directory / f"{name}.csv", list(rows[0]), rows)
    made = circumstances() if made is None else made
    (directory / f"{name}.json").write_text(json.dumps(made, indent=2) + "\n")
    print(f"wrote {directory / name}.csv and .json", flush=True)


def circumstances() -> dict[str, Any]:
    """This process's command, with versions and commit."""
    return dict(command=shlex.join(["python", *sys.argv]), versions=versions(), git=git_state())
