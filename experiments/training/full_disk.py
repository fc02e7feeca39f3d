"""What a run does where there is no space left: it waits for some rather than lose what it has learned."""

import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from experiments.training.errors import is_full
from experiments.training.progress import say

Result = TypeVar("Result")

WAIT = 10.0  # seconds between two tries


def when_there_is_space(write: Callable[[], Result], what: str, console: Console | None = None) -> Result:
    """
    Write, as often as it takes while the disk is full.

    :param write: what writes; it leaves nothing behind when it fails
    :param what: it writes, for people to read
    :param console: where it is said, once, that the run waits
    :return: what it returns
    :raises OSError: for any other reason
    """
    has_said = False
    while True:
        try:
            return write()
        except OSError as error:
            if not is_full(error):
                raise
            if not has_said:
                what_to_do = f"training waits until there is space for {what} (Ctrl-C, repeated, gives up)"
                say(console or Console(), f"the disk is full: {what_to_do}")
                has_said = True
            time.sleep(WAIT)
