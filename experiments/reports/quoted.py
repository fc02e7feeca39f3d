"""Tables and curves in documents that are what committed results give: a table stands between comments that name it.

::

    <!-- report: mujoco final -->
    | ... |
    <!-- end of report -->
"""

import re
from pathlib import Path

from experiments.reports.report_figures import curves_figure
from experiments.reports.report_text import final_table, improvement_table
from experiments.reports.results import RESULTS
from experiments.reports.scores import read_curves
from experiments.training.errors import UsageError

QUOTED = re.compile(r"(<!-- report: (\S+) (final|improvement over (.+?)) -->\n).*?(<!-- end of report -->)", re.DOTALL)


def with_tables(text: str, results: Path = RESULTS) -> str:
    """
    Put the tables that a document quotes into it.

    :param text: of the document
    :param results: where the tidy tables are
    :return: the document, of which nothing else has changed
    """

    def table(match: re.Match[str]) -> str:
        begin, name, kind, baseline, end = match.groups()
        curves = read_curves(results / f"{name}.csv", "avg_return")
        return (
            begin
            + "\n"
            + (final_table(curves) if kind == "final" else improvement_table(curves, baseline))
            + "\n"
            + end
        )

    return QUOTED.sub(table, text)


def update_documents(paths: list[Path]) -> None:
    """
    Rewrite the documents whose tables have changed, and draw the curves (``NAME_curves.png``) that they show.

    :param paths: of Markdown files
    """
    shown = {name for path in paths for name in re.findall(r"/(\w+)_curves\.png\)", path.read_text())}
    for name in sorted(shown):
        figure = curves_figure(read_curves(RESULTS / f"{name}.csv", "avg_return"), {}, {})
        figure.savefig(RESULTS / f"{name}_curves.png", dpi=110)
    for path in paths:
        text = path.read_text()
        if text.count("<!-- report: ") != len(QUOTED.findall(text)):
            raise UsageError(
                f"{path}: a table's comments are not <!-- report: NAME final --> ... <!-- end of report -->"
            )
        new = with_tables(text)
        if new != text:
            path.write_text(new)
            print(f"updated {path}")
