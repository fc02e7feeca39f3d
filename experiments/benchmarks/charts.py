"""The pictures of a mode's rows: bars of ratios, or lines over a quantity that is varied."""

from collections import defaultdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.benchmarks.turns import UNITS
from experiments.reports.learning_curves import COLORS
from experiments.reports.results import Row

OURS, SB3, OTHERS = COLORS[0], "#888888", COLORS[1]
TITLE, PANEL, BAR = 0.6, 0.9, 0.32  # inches: of the title, of a panel's title and axis, of a bar


def bar_chart(title: str, rows: list[Row]) -> Figure:
    """
    A bar a contender: the median ratio to the reference, with a whisker from the lowest to the highest round.

    :param title: of the picture
    :param rows: a mode's rows; those without a ratio are left out
    :return: the figure
    """
    panels: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["ratio"] is not None:
            panels[row["what"]].append(row)
    sizes = [PANEL + BAR * len(panel) for panel in panels.values()] or [PANEL]
    figure = Figure(figsize=(8.5, TITLE + sum(sizes)), layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(sizes), 1, squeeze=False, height_ratios=sizes)
    for axes, (what, panel) in zip(grid[:, 0], panels.items()):
        _draw_bars(axes, what, panel)
    return figure


def _draw_bars(axes: Axes, what: str, rows: list[Row]) -> None:
    ratios = [row["ratio"] for row in rows]
    whiskers = (
        [max(row["ratio"] - row["ratio_lowest"], 0) for row in rows],
        [max(row["ratio_highest"] - row["ratio"], 0) for row in rows],
    )
    places = range(len(rows))
    colors = [_color(row["contender"]) for row in rows]
    axes.barh(places, ratios, 0.7, color=colors, xerr=whiskers, ecolor="black", capsize=3)
    axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(places, [row["contender"] for row in rows])
    numbers = axes.secondary_yaxis("right")
    numbers.set_yticks(places, [f"{row['ratio']:.2f}   ({row['median']:g} {row['unit']})" for row in rows])
    numbers.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_title(what, fontsize=11, loc="left")
    axes.set_xlabel(
        f"ratio to {rows[0]['reference']} ({UNITS[rows[0]['unit']].meaning}; whiskers: lowest and highest round)"
    )
    for frame in (axes, numbers):
        frame.spines[["top", "right"]].set_visible(False)


def _color(contender: str) -> str:
    if contender.startswith(("flowrl", "run.py flow")):
        return OURS
    return SB3 if contender.startswith(("SB3", "run.py")) else OTHERS


def line_chart(title: str, rows: list[Row]) -> Figure:
    """
    A line a contender over the quantity that is varied, on logarithmic axes, with a band from the lowest round to the
    highest.

    :param title: of the picture
    :param rows: a mode's rows of one case; those without a number are left out
    :return: the figure
    """
    measured = [row for row in rows if row["median"] is not None]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots()
    contenders = dict.fromkeys(row["contender"] for row in measured)
    for color, contender in zip(COLORS * len(rows), contenders):
        curve = [row for row in measured if row["contender"] == contender]
        values = [row["value"] for row in curve]
        axes.plot(values, [row["median"] for row in curve], marker="o", color=color, label=contender)
        bounds: Any = [[row[bound] for row in curve] for bound in ("lowest", "highest")]
        axes.fill_between(values, *bounds, color=color, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    ticks = sorted({row["value"] for row in measured})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(rows[0]["what"])
    axes.set_ylabel(f"{rows[0]['unit']} (bands: from the lowest round to the highest)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False, fontsize=9)
    return figure
