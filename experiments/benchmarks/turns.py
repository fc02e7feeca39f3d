"""Contenders take turns (A B C A B C ...), so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch

from experiments.benchmarks.peers import NotAvailable


@dataclass
class Work:
    """
    What a contender does when its turn comes.

    :param turn: does one turn's work and returns how much it was: steps, passes, predictions
    :param parameters: how many parameters its model has
    :param close: called when there are no more turns
    """

    turn: Callable[[], float]
    parameters: int | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Contender:
    """
    One row of the table.

    :param name: as it is printed
    :param make: builds and warms up; what it raises is why the row is skipped
    :param reference: the :attr:`label` of the contender that it is compared with
    :param value: of the quantity that is varied, where one is
    """

    name: str
    make: Callable[[], Work]
    reference: str
    value: int | None = None

    @property
    def label(self) -> str:
        """What tells it from all others of its case."""
        return self.name if self.value is None else f"{self.name}, {self.value}"


@dataclass(frozen=True)
class Unit:
    """
    What is measured.

    :param name: ``"ms"``
    :param of: from a turn's work and its seconds to the number
    :param meaning: of a ratio greater than 1: ``"longer is slower"``
    """

    name: str
    of: Callable[[float, float], float]
    meaning: str


MILLISECONDS = Unit("ms", lambda done, seconds: 1e3 * seconds / done, "longer is slower")
MICROSECONDS = Unit("µs", lambda done, seconds: 1e6 * seconds / done, "longer is slower")
STEPS_PER_SECOND = Unit("steps/s", lambda done, seconds: done / seconds, "longer is faster")
UNITS = {unit.name: unit for unit in (MILLISECONDS, MICROSECONDS, STEPS_PER_SECOND)}


@dataclass(frozen=True)
class Case:
    """
    Contenders that take turns with each other.

    :param what: they do
    :param unit: of the result
    :param contenders: in the order of their turns
    """

    what: str
    unit: Unit
    contenders: Sequence[Contender]


@dataclass
class Result:
    """
    What a contender reached.

    :param contender: who
    :param work: None once it is skipped
    :param parameters: of its model
    :param values: one a round, in the case's unit
    :param skipped: why there are none
    """

    contender: Contender
    work: Work | None = None
    parameters: int | None = None
    values: list[float] = field(default_factory=list)
    skipped: str = ""

    @contextmanager
    def skipped_if_it_fails(self) -> Iterator[None]:
        """Leave the contender out from here on where something fails inside, and say so."""
        try:
            yield
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            self.skipped = first_line if isinstance(error, NotAvailable) else f"{type(error).__name__}: {first_line}"
            self.work, self.values = None, []
            print(f"  skipped {self.contender.label}: {self.skipped}", flush=True)


Clock = Callable[[Callable[[], float]], tuple[float, float]]
"""Runs a turn and returns how much it did and the seconds that it took."""


def wall_clock(turn: Callable[[], float]) -> tuple[float, float]:
    """
    Time a turn, until a GPU that takes part has finished what it was given.

    :param turn: to run
    :return: how much it did, and the seconds
    """
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    start = time.perf_counter()
    done = turn()
    wait()
    return done, time.perf_counter() - start


def take_turns(case: Case, rounds: int, clock: Clock = wall_clock) -> list[Result]:
    """
    Build the contenders, let each warm up for a turn, then measure them in rounds.

    A contender that fails, then or later, is skipped; the others go on.

    :param case: the contenders
    :param rounds: turns of each that are measured
    :param clock: what measures them
    :return: the results, in the contenders' order
    """
    results = [Result(contender) for contender in case.contenders]
    with ExitStack() as stack:
        for result in results:
            with result.skipped_if_it_fails():
                result.work = work = result.contender.make()
                stack.callback(work.close)
                result.parameters = work.parameters
                work.turn()
        for result in results * rounds:
            with result.skipped_if_it_fails():
                if result.work is not None:
                    result.values.append(case.unit.of(*clock(result.work.turn)))
    return results
