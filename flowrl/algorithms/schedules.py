"""Schedules that a string can say: ``"linear_1e-3_1e-5"`` goes from the first to the second over the training."""

import math

from stable_baselines3.common.utils import LinearSchedule

PREFIX = "linear_"


def linear_schedule(text: str) -> LinearSchedule:
    """
    :param text: ``"linear_FIRST_LAST"``
    :return: the schedule, of the training that remains
    :raises ValueError: for anything else
    """
    numbers = text.removeprefix(PREFIX).split("_")
    try:
        first, last = map(float, numbers)
        if not (text.startswith(PREFIX) and math.isfinite(first + last)):
            raise ValueError
    except ValueError:
        raise ValueError(f'A linear schedule is "linear_FIRST_LAST", two numbers, got {text!r}.') from None
    return LinearSchedule(first, last, 1.0)
