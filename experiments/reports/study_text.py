"""Tables of studies and of speed, in Markdown, from the rows of their CSV files."""

import re
from collections.abc import Iterable, Mapping, Sequence

Rows = Sequence[Mapping[str, str]]


def seeds_table(rows: Rows, columns: Sequence[str]) -> str:
    """
    What each agent reached with each seed.

    :param rows: one an agent and seed, with ``agent`` or ``variant``, ``seed`` and the columns
    :param columns: which stand in the table
    :return: a Markdown table; a cell has the seeds' values, in the order of the seeds
    :raises KeyError: for a column that is not there
    """
    who = "agent" if "agent" in rows[0] else "variant"
    lines = [[f"{who} (one value a seed)", *(column.replace("_", " ") for column in columns)]]
    for name in dict.fromkeys(row[who] for row in rows):
        of_agent = sorted((row for row in rows if row[who] == name), key=lambda row: int(row["seed"]))
        seeds = [row["seed"] for row in of_agent]
        named = "" if seeds == [str(i) for i in range(len(seeds))] else f", seeds {', '.join(seeds)}"
        cells = (", ".join(_shown([row[column] for row in of_agent])) for column in columns)
        lines.append([name + named, *cells])
    return _markdown(lines)


def ratios_table(rows: Rows) -> str:
    """
    Every contender of a mode of the benchmark, beside its reference.

    :param rows: of a ``speed_MODE.csv``
    :return: a Markdown table; in brackets the lowest and the highest of the rounds' ratios
    """
    lines = [["what", "contender", rows[0]["unit"], "ratio", "to"]]
    for row in rows:
        if row["median"]:
            ratio = _range(row["ratio"], row["ratio_lowest"], row["ratio_highest"])
            lines.append([row["what"], row["contender"], f"{float(row['median']):,.0f}", ratio, row["reference"]])
    return _markdown(lines)


def medians_table(tables: Iterable[Rows]) -> str:
    """
    The ratios of the contenders that all cases have in common, a column a case.

    :param tables: of ``speed_MODE.csv``, whose contenders' names differ in the algorithm
    :return: a Markdown table, without the reference
    """
    cases: dict[str, dict[str, str]] = {}
    for row in (row for rows in tables for row in rows):
        if row["contender"] != row["reference"] and row["ratio"]:
            contender = re.sub(r" (SAC|PPO)\b", "", row["contender"])
            cases.setdefault(row["what"], {})[contender] = f"{float(row['ratio']):.2f}"
    first, *others = cases.values()
    lines = [["training, times as fast as SB3's Gaussian", *cases]]
    for contender in first:
        if all(contender in other for other in others):
            lines.append([contender, *(case[contender] for case in cases.values())])
    return _markdown(lines)


def targets_table(rows: Rows) -> str:
    """
    What the speed should be.

    :param rows: of ``speed_targets.csv``
    :return: a Markdown table
    """
    lines = [["ratio of", "unit", "wanted", "measured"]]
    for row in rows:
        missed = ", missed" if row["met"] == "no" else ""
        measured = _range(row["ratio"], row["lowest"], row["highest"])
        lines.append([row["case"].replace(" / ", " to "), row["unit"], row["target"], measured + missed])
    return _markdown(lines)


def _range(median: str, lowest: str, highest: str) -> str:
    return f"{float(median):.2f} ({float(lowest):.2f} to {float(highest):.2f})"


def _shown(values: Sequence[str]) -> list[str]:
    """Numbers with three decimals, or with none where one is large; words as they are."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return list(values)
    form = ".0f" if max(map(abs, numbers)) >= 100 else ".3f"
    return [f"{number:{form}}" for number in numbers]


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *body]) + "\n"
