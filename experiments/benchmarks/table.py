"""From the results of a case to the rows of its table: medians, and ratios to the reference's turn beside each turn."""

import statistics
from collections.abc import Sequence

from experiments.benchmarks.turns import Case, Result
from experiments.reports.results import Row

Summary = tuple[float | None, float | None, float | None]
"""Median, lowest, highest; None where nothing was measured."""


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
        median, lowest, highest = summary(result.values)
        ratio, ratio_lowest, ratio_highest = summary(ratios(result.values, reference.values if reference else []))
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
                values=" ".join(f"{_rounded(value):g}" for value in result.values),
                parameters=result.parameters,
                skipped=result.skipped,
            )
        )
    return table


def show(table: list[Row]) -> str:
    """
    The table of one case as text.

    :param table: its rows
    :return: a line a contender, under a heading
    """
    width = max(len(label(row)) for row in table)
    lines = [f"  {table[0]['unit']:<{width}} {'median':>9} {'lowest':>9} {'highest':>9}   ratio (lowest to highest)"]
    for row in table:
        name = f"  {label(row):<{width}}"
        if row["median"] is None:
            lines.append(f"{name}   skipped: {row['skipped']}")
            continue
        line = f"{name} {row['median']:>9g} {row['lowest']:>9g} {row['highest']:>9g}"
        if row["ratio"] is not None:
            ratio = f"{row['ratio']:.2f} ({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})"
            line += f"   {ratio} x {row['reference']}"
        lines.append(line)
    return "\n".join(lines)


def label(row: Row) -> str:
    """
    What tells a contender from all others of its case.

    :param row: its row, fresh or read from a file
    :return: its name, with the value of the quantity that is varied, where one is
    """
    return f"{row['contender']}, {row['value']}" if row.get("value") else row["contender"]


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """
    Round by round, against the turn beside: a slow minute of the machine cancels out.

    :param values: one a round
    :param reference: the same of another contender
    :return: their ratios; none where the other was not measured
    """
    return [ours / theirs for ours, theirs in zip(values, reference)]


def summary(values: Sequence[float]) -> Summary:
    """
    Median, lowest and highest.

    :param values: what was measured
    :return: the three, to four digits
    """
    if not values:
        return None, None, None
    return _rounded(statistics.median(values)), _rounded(min(values)), _rounded(max(values))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
