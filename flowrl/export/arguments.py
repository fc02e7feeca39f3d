"""A policy's constructor arguments as JSON and back: numbers, text, lists, dictionaries, and classes by their names."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flowrl.export.allowed import find, name_of

CLASS, FLOAT = "$class", "$float"  # {"$class": "torch.nn.ReLU"}, {"$float": "inf"}
MAX_INTEGER = 2**17
"""In what a file says: no width or number of layers in a policy is larger."""
MAX_COUNT = 2**53
"""Of updates, which sizes nothing; the largest whole number that is the same in every reader of JSON."""
COUNTS = ("renorm_warmup_steps",)
"""Arguments that count updates."""


def as_data(value: Any, argument: str) -> Any:
    """
    :param value: of an argument
    :param argument: its name, for the error
    :return: it in JSON
    :raises ValueError: if it is no data, with what to do instead
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and abs(value) > (largest := _largest(argument)):
        raise ValueError(f"{argument}={value} is above {largest}, the largest whole number that a file may have there.")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {FLOAT: str(value)}
    if isinstance(value, (list, tuple)) and argument != "flow":
        return [as_data(part, f"{argument}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) and key[:1] != "$" for key in value):
        return {key: as_data(part, f"{argument}[{key!r}]") for key, part in value.items()}
    if argument == "flow":
        raise ValueError(
            f"flow={_short(value)} is no data that a file could hold: give the builder a name, "
            "flowrl.register_flow(name, builder), and train with flow=name. It has to be registered where the file is "
            "opened, too."
        )
    if isinstance(value, type):
        name = name_of(value)
        if name is None:
            raise ValueError(
                f"{argument}={value.__module__}.{value.__qualname__} is not on the list of classes that a file may "
                "name: flowrl.export.allow(cls) puts it there, here and where the file is opened."
            )
        return {CLASS: name}
    raise ValueError(
        f"{argument}={_short(value)} is no data that a file could hold: numbers, text, lists and dictionaries of them, "
        "and allowed classes are. Move it into a class of your own and flowrl.export.allow(cls) that."
    )


def from_data(value: Any, argument: str = "") -> Any:
    """
    :param value: of :func:`as_data`, from anywhere
    :param argument: its name, where it has one
    :return: the argument
    :raises ValueError: for a class that is not allowed, or an absurd number
    """
    if isinstance(value, list):
        return [from_data(part) for part in value]
    if isinstance(value, dict):
        if value.keys() == {CLASS}:
            return find(value[CLASS])
        if value.keys() == {FLOAT} and value[FLOAT] in ("inf", "-inf", "nan"):
            return float(value[FLOAT])
        if any(key[:1] == "$" for key in value):
            raise ValueError(f"it has an unknown mark, {next(key for key in value if key[:1] == '$')[:40]!r}")
        return {key: from_data(part, key) for key, part in value.items()}
    if isinstance(value, int) and abs(value) > (largest := _largest(argument)):
        raise ValueError(f"the number {str(value)[:20]} is absurd: a policy has none above {largest} there")
    return value


def _largest(argument: str) -> int:
    return MAX_COUNT if argument in COUNTS else MAX_INTEGER


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
