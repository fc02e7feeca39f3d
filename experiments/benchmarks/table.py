"""From the results of a case to the rows of its table: medians, and ratios to the reference's turn beside each turn."""

import statistics
from collections.abc import Sequence

from experiments.benchmarks.turns import Case, Result
from experiments.reports.results import Row

Summary = tuple[float | None, float | None, float | None]
"""Median, lowest, highest; None where nothing was measured."""

OPTIONAL = ("value", "parameters")  # columns that a table without any such numbers does not have


def rows(case: Case, results: Sequence[Result]) -> list[Row]:
    """
    The table of one case.

    :param case: what was measured
    :param results: what was reached
    :return: one row a contender; numbers are None where it was skipped
    """
    by_label = {result.contender.label: result for result in results}
    table = []
    for result in results:
        reference = by_label.get(result.contender.reference)
        median, lowest, highest = _summary(result.values)
        ratio, ratio_lowest, ratio_highest = _summary(_ratios(result, reference))
        table.append(
            dict(
                what=case.what,
                value=result.contender.value,
                contender=result.contender.name,
                unit=case.unit.name,
                median=median,
                lowest=lowest,
                highest=highest,
                reference=result.contender.reference,
                ratio=ratio,
                ratio_lowest=ratio_lowest,
                ratio_highest=ratio_highest,
                rounds=len(result.values),
                parameters=result.parameters,
                skipped=result.skipped,
            )
        )
    return table


def without_empty_columns(table: list[Row]) -> list[Row]:
    """
    Drop the optional columns that hold nothing.

    :param table: all rows of a mode
    :return: the same rows without them
    """
    empty = {column for column in OPTIONAL if all(row[column] is None for row in table)}
    return [{column: entry for column, entry in row.items() if column not in empty} for row in table]


def show(table: list[Row]) -> str:
    """
    The table of one case as text.

    :param table: its rows
    :return: a line a contender, under a heading
    """
    width = max(len(_name(row)) for row in table)
    lines = [f"  {table[0]['unit']:<{width}} {'median':>9} {'lowest':>9} {'highest':>9}   ratio (lowest to highest)"]
    for row in table:
        name = f"  {_name(row):<{width}}"
        if row["median"] is None:
            lines.append(f"{name}   skipped: {row['skipped']}")
            continue
        line = f"{name} {row['median']:>9g} {row['lowest']:>9g} {row['highest']:>9g}"
        if row["ratio"] is not None:
            ratio = f"{row['ratio']:.2f} ({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})"
            line += f"   {ratio} x {row['reference']}"
        lines.append(line)
    return "\n".join(lines)


def _name(row: Row) -> str:
    return row["contender"] if row["value"] is None else f"{row['contender']}, {row['value']}"


def _ratios(result: Result, reference: Result | None) -> list[float]:
    """Round by round, against the turn beside: a slow minute of the machine cancels out."""
    if reference is None or not reference.values:
        return []
    return [ours / theirs for ours, theirs in zip(result.values, reference.values)]


def _summary(values: Sequence[float]) -> Summary:
    if not values:
        return None, None, None
    return _rounded(statistics.median(values)), _rounded(min(values)), _rounded(max(values))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
