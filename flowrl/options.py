"""What constructors refuse: numbers and points out of their range, each in one sentence that names the argument."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def whole(name: str, value: int, least: int, most: int | None = None) -> int:
    """
    A whole number within limits.

    :param name: the argument, for the error
    :param value: what was given
    :param least: the smallest that is allowed
    :param most: the largest, if there is one
    :return: the number
    :raises ValueError: for anything else
    """
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (integer and least <= value and (most is None or value <= most)):
        limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}.")
    return int(value)


def between(name: str, value: float, low: float, high: float = math.inf) -> float:
    """
    A number strictly between two others.

    :param name: the argument, for the error
    :param value: what was given
    :param low: its lower limit, which is not allowed itself
    :param high: its upper limit, neither
    :return: the number
    :raises ValueError: for anything else
    """
    if not (_is_number(value) and low < value < high):
        limits = f"greater than {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{name} must be a number {limits}, got {value!r}.")
    return float(value)


def fraction(name: str, value: float) -> float:
    """
    A number from 0 to 1, both allowed.

    :param name: the argument, for the error
    :param value: what was given
    :return: the number
    :raises ValueError: for anything else
    """
    if not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}.")
    return float(value)


def not_negative(name: str, value: float) -> float:
    """
    A finite number that is zero or more.

    :param name: the argument, for the error
    :param value: what was given
    :return: the number
    :raises ValueError: for anything else
    """
    if not (_is_number(value) and 0 <= value < math.inf):
        raise ValueError(f"{name} must be a finite number that is not negative, got {value!r}.")
    return float(value)


def points(name: str, value: ArrayLike, dimensions: int, bound: float) -> NDArray[np.float64]:
    """
    At least one point of a box.

    :param name: the argument, for the error
    :param value: a sequence of points
    :param dimensions: numbers in a point
    :param bound: the box is [-bound, bound]^dimensions
    :return: shape ``(n, dimensions)``
    :raises ValueError: for another shape, for none, and for points outside the box
    """
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != dimensions or len(array) == 0 or not (np.abs(array) <= bound).all():
        raise ValueError(
            f"{name} must be one or more points of {dimensions} numbers from -{bound:g} to {bound:g}, got {value!r}."
        )
    return array


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
