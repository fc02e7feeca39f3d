"""Errors that are the user's to mend: shown as one line, without a traceback."""

import errno
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps

Main = Callable[..., int]


class UsageError(Exception):
    """A request that cannot be met as it was typed; the message says what to type instead (exit code 2)."""


class TrainingError(Exception):
    """Training that cannot go on; the message says what to do about it (exit code 1)."""

    exit_code = 1


class Resumable(TrainingError):
    """Training that would go on from its last checkpoint if it were resumed (exit code 75, as sysexits.h has it)."""

    exit_code = 75


def is_full(error: OSError) -> bool:
    """Whether an error means that there is no space left on the device, or none of the user's quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


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
    """
    A command that shows these errors as one line each.

    Its exit code is 2 for a request that cannot be met, 1 for training that failed, 75 for training that lost a process
    of its own, 130 for Ctrl-C. Where nobody reads
    on (``... | head``) it ends in silence.
    """

    @wraps(main)
    def command(argv: list[str] | None = None) -> int:
        try:
            code = main(argv)
            sys.stdout.flush()
            return code
        except (UsageError, TrainingError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, UsageError) else error.exit_code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit
            return 0
        except OSError as error:
            if not is_full(error):
                raise
            print(f"error: the disk is full: {error.filename or 'nothing more can be written'}", file=sys.stderr)
            return 1

    return command
