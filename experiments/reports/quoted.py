"""Tables and curves in documents that are what committed results give: a table stands between comments that name it.

::

    <!-- report: mujoco final -->
    | ... |
    <!-- end of report -->

A comment names a CSV file of ``experiments/results/``, and what stands of it:

- ``NAME[,NAME] final`` and ``NAME[,NAME] improvement [of AGENT, AGENT] over AGENT[; ...]``: of suites' tables;
- ``NAME seeds COLUMN, COLUMN``: of a study's table, each agent's values in these columns, seed by seed;
- ``speed_MODE ratios``: every contender beside its reference; ``speed_MODE,speed_MODE medians``: those that all cases
  have; ``speed_targets targets``: what the speed should be.
"""

import re
from itertools import chain
from pathlib import Path

from experiments.reports.report_figures import curves_figure
from experiments.reports.report_text import final_table, improvement_table
from experiments.reports.results import RESULTS
from experiments.reports.scores import Curves, agents_of, read_curves
from experiments.reports.study_text import medians_table, ratios_table, seeds_table, targets_table
from experiments.training.errors import UsageError
from experiments.training.tables import read_csv

QUOTED = re.compile(r"(<!-- report: (\S+) (.+?) -->\n).*?(<!-- end of report -->)", re.DOTALL)


def table(names: str, what: str, results: Path = RESULTS) -> str:
    """
    One table.

    :param names: of CSV files, without their endings, with commas between
    :param what: stands of them, as above
    :param results: where the files are
    :return: Markdown
    :raises UsageError: for anything else
    """
    paths = [results / f"{name}.csv" for name in names.split(",")]
    for path in paths:
        if not path.exists():
            raise UsageError(f"<!-- report: {names} {what} -->: there is no {path}")
    path, *others = paths
    try:
        match what.split(" ", 2):
            case ["medians"]:
                return medians_table([read_csv(path) for path in paths])
            case ["final"]:
                return final_table(_curves(paths))
            case ["improvement", *_] if compared := _compared(what):
                curves = _curves(paths)
                for agent in {*compared, *chain(*compared.values())} - {*agents_of(curves)}:
                    raise UsageError(f"<!-- report: {names} {what} -->: there is no agent {agent!r}")
                return improvement_table(curves, compared)
            case ["seeds", *columns] if not others:
                return seeds_table(read_csv(path), " ".join(columns).split(", "))
            case ["ratios"] if not others:
                return ratios_table(read_csv(path))
            case ["targets"] if not others:
                return targets_table(read_csv(path))
    except KeyError as error:
        raise UsageError(f"<!-- report: {names} {what} -->: there is no column {error}") from None
    known = "seeds COLUMN[, COLUMN], ratios, targets, and of several tables, too, final, medians, "
    known += "improvement [of AGENT, AGENT] over AGENT[; ...]"
    raise UsageError(f"<!-- report: {names} {what} -->: what stands of a table is one of {known}")


def _compared(what: str) -> dict[str, list[str]]:
    """Each baseline, and who is compared with it, as in ``improvement of A, B over C; over D``; {} for what is none."""
    compared = {}
    for part in what.removeprefix("improvement ").split("; "):
        found = re.fullmatch(r"(?:of (.+) )?over (.+)", part)
        if found is None:
            return {}
        compared[found[2]] = found[1].split(", ") if found[1] else []
    return compared


def _curves(paths: list[Path]) -> Curves:
    """Of several suites, side by side."""
    curves: Curves = {}
    for path in paths:
        more = read_curves(path, "avg_return")
        if both := sorted(curves.keys() & more.keys()):
            raise UsageError(f"{path}: {' in '.join(both[0])} stands in another of these tables, too")
        curves |= more
    return curves


def with_tables(text: str, results: Path = RESULTS) -> str:
    """
    Put the tables that a document quotes into it.

    :param text: of the document
    :param results: where the tables are
    :return: the document, of which nothing else has changed
    """

    def quoted(match: re.Match[str]) -> str:
        begin, names, what, end = match.groups()
        return f"{begin}\n{table(names, what, results)}\n{end}"

    return QUOTED.sub(quoted, text)


def update_documents(paths: list[Path], results: Path = RESULTS) -> None:
    """
    Rewrite the documents whose tables have changed, and draw the curves (``NAME_curves.png``) that they show.

    :param paths: of Markdown files
    :param results: where the tables are, and the pictures go
    :raises UsageError: for a comment that is not understood
    """
    shown = {name for path in paths for name in re.findall(r"/(\w+)_curves\.png\)", path.read_text())}
    for name in sorted(shown):
        figure = curves_figure(read_curves(results / f"{name}.csv", "avg_return"), {}, {})
        figure.savefig(results / f"{name}_curves.png", dpi=110)
    for path in paths:
        text = path.read_text()
        if text.count("<!-- report: ") != len(QUOTED.findall(text)):
            raise UsageError(
                f"{path}: a table's comments are not <!-- report: NAME final --> ... <!-- end of report -->"
            )
        try:
            new = with_tables(text, results)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        if new != text:
            path.write_text(new)
            print(f"updated {path}")
