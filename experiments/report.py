"""From tables of results to statistics: ``python experiments/report.py runs/suites/mujoco/mujoco.csv``.

Writes ``NAME_report.md``, ``NAME_curves.png``, ``NAME_profiles.png`` and ``NAME_report.html`` with all of it. Other
people's tables in the same columns stand in the same pictures: ``--theirs FILE=LABEL``. ``--quote`` brings the tables
in README.md and docs/ up to date with the results in experiments/results.
"""

import argparse
import base64
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

from experiments.training.errors import UsageError, one_line_errors

if TYPE_CHECKING:
    from experiments.reports.scores import Curves

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = argparse.ArgumentParser(prog="report.py", description="Statistics of many runs.")
    parser.add_argument("table", type=Path, nargs="?", metavar="CSV", help="what experiments/suite.py wrote")
    parser.add_argument("--baseline", help="the agent to compare with (default: the first whose name has gaussian)")
    parser.add_argument("--metric", default="avg_return", help="or sampled_avg_return (default: avg_return)")
    parser.add_argument("--theirs", metavar="FILE=LABEL", action="append", default=[], help="other people's table")
    parser.add_argument("--their-agents", nargs="+", metavar="NAME", help="of their tables, these alone")
    parser.add_argument("--output", type=Path, help="where (default: beside the table)")
    parser.add_argument("--quote", action="store_true", help="update the tables in README.md and docs/")
    arguments = parser.parse_args(argv)
    if arguments.quote:
        from experiments.reports.quoted import update_documents

        update_documents(DOCUMENTS)
        return 0
    if arguments.table is None:
        parser.error("the following arguments are required: CSV (or --quote)")
    report(arguments)
    return 0


def report(arguments: argparse.Namespace) -> None:
    """
    Write a report.

    :param arguments: the command line
    """
    from experiments.reports.report_figures import aggregate_figure, curves_figure
    from experiments.reports.report_text import final_table, improvement_table
    from experiments.reports.scores import agents_of, read_curves, with_common_steps

    curves = read_curves(arguments.table, arguments.metric)
    name, directory = arguments.table.stem, arguments.output or arguments.table.parent
    timed = arguments.table.with_name(f"{name}_seconds.csv")
    seconds = read_curves(timed, "training_seconds") if timed.exists() else {}
    theirs = curves_of_others(arguments.theirs, arguments.their_agents)
    baseline = arguments.baseline or next((one for one in agents_of(curves) if "gaussian" in one), agents_of(curves)[0])
    if baseline not in agents_of(curves):
        raise UsageError(f"--baseline {baseline}: the agents are {', '.join(agents_of(curves))}")
    compared = with_common_steps(curves)
    directory.mkdir(parents=True, exist_ok=True)
    tables = [final_table(compared)]
    figures = {f"{name}_curves": curves_figure(curves, seconds, theirs)}
    if len(agents_of(curves)) > 1:
        tables.append(improvement_table(compared, {baseline: []}))
        profiles = aggregate_figure(compared, baseline)
        if profiles is not None:
            figures[f"{name}_profiles"] = profiles
    pictures = []
    for stem, figure in figures.items():
        figure.savefig(directory / f"{stem}.png", dpi=140)
        picture = (directory / f"{stem}.png").read_bytes()
        pictures.append(f'<img alt="{stem}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">')
    text = f"# {name}\n\n" + "\n".join(tables)
    text += "".join(f"\n![{stem}]({stem}.png)\n" for stem in figures)
    (directory / f"{name}_report.md").write_text(text)
    (directory / f"{name}_report.html").write_text(page(name, tables, pictures))
    print("\n".join(tables))
    print(f"wrote {directory / name}_report.md, .html and pictures")


def curves_of_others(files: list[str], agents: list[str] | None) -> "dict[str, Curves]":
    """
    Read other people's tables.

    :param files: as ``--theirs`` takes them
    :param agents: of all of them, these alone; None: all
    :return: each table's curves by its label
    :raises UsageError: for a label that is given twice, and for an agent that is in no table
    """
    from experiments.reports.scores import agents_of, read_curves

    theirs: dict[str, Curves] = {}
    for one in files:
        path, _, label = one.rpartition("=")  # a path may have one, too
        if not path or not label:
            raise UsageError(f"--theirs {one}: expected FILE=LABEL, for example results.csv='SimbaV2, 2025'")
        if label in theirs:
            raise UsageError(f"--theirs {one}: another table is called {label!r} already; give it a LABEL of its own")
        theirs[label] = read_curves(Path(path), "avg_return")
    there = sorted({agent for curves in theirs.values() for agent in agents_of(curves)})
    for agent in agents or []:
        if agent not in there:
            known = f"the tables have {', '.join(there)}" if there else "name their tables with --theirs FILE=LABEL"
            raise UsageError(f"--their-agents: no table has {agent!r}; {known}")
    if agents is None:
        return theirs
    return {
        label: {key: curve for key, curve in curves.items() if key[0] in agents} for label, curves in theirs.items()
    }


def page(title: str, tables: list[str], pictures: list[str]) -> str:
    """
    A page with everything in it.

    :param title: its title
    :param tables: in Markdown
    :param pictures: as HTML
    :return: HTML
    """
    style = "body{font:15px sans-serif;max-width:1100px;margin:2em auto} td,th{padding:3px 10px;text-align:left}"
    style += " img{max-width:100%}"
    body = "".join(_html_table(table) for table in tables) + "".join(f"<p>{picture}</p>" for picture in pictures)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
    return f"<!doctype html><html><head>{head}</head><body><h1>{escape(title)}</h1>{body}</body></html>\n"


def _html_table(markdown: str) -> str:
    inner = [line.strip().removeprefix("|").removesuffix("|") for line in markdown.splitlines()]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in inner]
    lines = []
    for i, row in enumerate(rows):
        if i != 1:  # the line between head and body
            tag = "th" if i == 0 else "td"
            lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


if __name__ == "__main__":
    sys.exit(main())
