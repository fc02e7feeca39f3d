"""A mode of ``experiments/benchmark.py``, and what the user chose for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from experiments.benchmarks.charts import bar_chart
from experiments.benchmarks.turns import Case
from experiments.reports.results import Row


@dataclass(frozen=True)
class Options:
    """
    The command line, resolved for one mode.

    :param env: environment id
    :param flows: recipes of the flow agents
    :param rounds: turns of each contender
    :param amount: of work in a turn, in the mode's own measure
    :param threads: of torch, and of JAX
    :param device: ``cpu`` or ``cuda``
    :param quick: whether the least of everything will do
    """

    env: str
    flows: Sequence[str]
    rounds: int
    amount: int
    threads: int
    device: str
    quick: bool = False


@dataclass(frozen=True)
class Mode:
    """
    One comparison: a table and a picture.

    :param name: as it is typed
    :param title: of the picture, with ``{env}`` where the environment's id goes
    :param cases: what is compared
    :param amount: of work in a turn
    :param quick_amount: the same with ``--quick``
    :param chart: draws the rows
    """

    name: str
    title: str
    cases: Callable[[Options], list[Case]]
    amount: int
    quick_amount: int
    chart: Callable[[str, list[Row]], Figure] = bar_chart
