"""Errors that are the user's to mend: shown as one line, without a traceback."""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps

Main = Callable[..., int]


class UsageError(Exception):
    """A request that cannot be met as it was typed; the message says what to type instead (exit code 2)."""


class TrainingError(Exception):
    """Training that cannot go on; the message says what to do about it (exit code 1)."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """
    A hint with the nearest valid names, or all of them where none is near.

    :param name: what was typed
    :param valid: what could have been typed
    :return: the hint, a sentence without its full stop
    """
    # Compared in lower case, shown as they are written.
    names = {candidate.lower(): candidate for candidate in sorted(valid, reverse=True)}
    near = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(names[match] for match in near) + "?"
    return "valid names are " + ", ".join(sorted(names.values()))


def one_line_errors(main: Main) -> Main:
    """A command that shows these errors as one line each, and returns 2 then."""

    @wraps(main)
    def command(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except (UsageError, TrainingError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return command
