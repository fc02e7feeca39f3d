"""Gymnasium's spaces as JSON and back, bounds and types exact."""

import math
from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import spaces

MAX_NUMBERS = 2**24
"""In a space and all of its parts: what a file says is made in memory, and no observation is as large."""

DTYPES = ("float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def describe_space(space: spaces.Space) -> dict[str, Any]:
    """
    :param space: of observations or actions
    :return: it in JSON
    :raises ValueError: for another kind of space than Stable-Baselines3's
    """
    if isinstance(space, spaces.Dict):
        return dict(type="Dict", spaces=[[key, describe_space(part)] for key, part in space.spaces.items()])
    if isinstance(space, spaces.Box):
        bounds = dict(low=_numbers(space.low), high=_numbers(space.high))
        return dict(type="Box", shape=list(space.shape), dtype=space.dtype.name, **bounds)
    if isinstance(space, spaces.Discrete):
        return dict(type="Discrete", n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return dict(type="MultiDiscrete", nvec=space.nvec.tolist(), start=space.start.tolist(), dtype=space.dtype.name)
    if isinstance(space, spaces.MultiBinary):
        return dict(type="MultiBinary", shape=list(space.shape))
    raise ValueError(
        f"{space} cannot be described: a policy's spaces are Box, Discrete, MultiDiscrete, MultiBinary, Dict."
    )


def build_space(description: Any) -> spaces.Space:
    """
    :param description: of :func:`describe_space`, from anywhere
    :return: the space
    :raises ValueError: if it describes none, or one of more than :data:`MAX_NUMBERS` numbers
    """
    try:
        if _size(description) > MAX_NUMBERS:
            raise ValueError(f"a space of {_size(description):,} numbers is too large to be one of a policy's")
        return _build(description)
    except (KeyError, TypeError, AssertionError, OverflowError) as error:
        raise ValueError(f"{str(description)[:80]!r} describes no space ({type(error).__name__}: {error})") from error


def _build(description: Any) -> spaces.Space:
    kind = description["type"]
    if kind == "Dict":
        # Of a plain dictionary Gymnasium sorts the keys, and the order is that of a network's inputs
        return spaces.Dict(OrderedDict((_text(key), _build(part)) for key, part in description["spaces"]))
    if kind == "Box":
        shape, dtype = _shape(description["shape"]), _dtype(description["dtype"])
        low, high = (_array(description[side], shape, dtype) for side in ("low", "high"))
        return spaces.Box(low, high, shape, dtype)
    if kind == "Discrete":
        return spaces.Discrete(_integer(description["n"]), start=_integer(description["start"]))
    if kind == "MultiDiscrete":
        integers: Any = _dtype(description["dtype"])
        nvec, start = (np.array(description[name], integers) for name in ("nvec", "start"))
        return spaces.MultiDiscrete(nvec, dtype=integers, start=start)
    if kind == "MultiBinary":
        shape = _shape(description["shape"])
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    raise ValueError(f"{str(kind)[:40]!r} is no kind of space")


def _size(description: Any) -> int:
    """How many numbers a space would have, by its description."""
    if description["type"] == "Dict":
        return sum(_size(part) for _, part in description["spaces"])
    return math.prod(_shape(description["shape"])) if "shape" in description else 1


def _numbers(array: np.ndarray) -> Any:
    """All numbers, row by row, or the one that all of them are; JSON has no infinity."""
    values = [_number(value) for value in array.flatten().tolist()]
    return values[0] if values and all(value == values[0] for value in values) else values


def _number(value: Any) -> Any:
    return value if math.isfinite(value) else str(value)


def _array(values: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    given = values if isinstance(values, list) else [values]
    numbers = [float(value) if isinstance(value, str) else value for value in given]
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
        raise ValueError(f"{str(values)[:40]!r} are no bounds")
    if any(math.isnan(number) for number in numbers):
        raise ValueError("a bound is NaN")
    array = np.array(numbers, dtype)
    return array.reshape(shape) if isinstance(values, list) else np.full(shape, array[0], dtype)


def _shape(shape: Any) -> tuple[int, ...]:
    sides = tuple(_integer(side) for side in shape)
    if min(sides, default=0) < 0 or math.prod(sides) > MAX_NUMBERS:
        raise ValueError(f"a space of shape {sides} is none, or too large to be one of a policy's")
    return sides


def _dtype(name: Any) -> np.dtype:
    if name not in DTYPES:
        raise ValueError(f"{str(name)[:40]!r} is no type of numbers: they are {', '.join(DTYPES)}")
    return np.dtype(name)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{str(value)[:40]!r} is no integer of 64 bits")
    return value


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{str(key)[:40]!r} is no key")
    return key
