"""The options of a recipe, checked by their annotations before anything is built."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

Recipe = TypeVar("Recipe", bound=Callable[..., Any])


def checked_options(recipe: Recipe) -> Recipe:
    """
    The recipe, refusing options that are not of the kind that its signature says: every number is above zero.

    :param recipe: ``recipe(features, context, **options)``, its options annotated as :data:`KINDS` has them
    """
    annotations = {name: str(parameter.annotation) for name, parameter in inspect.signature(recipe).parameters.items()}

    @functools.wraps(recipe)
    def checked(features: int, context: int, **options: Any) -> Any:
        for name, value in options.items():
            fits, allowed = KINDS.get(annotations.get(name, ""), (None, ""))
            if fits is not None and not fits(value):
                raise ValueError(f"{name} must be {allowed}, got {name}={value!r} (flow {recipe.__name__!r}).")
        return recipe(features, context, **options)

    return checked  # type: ignore[return-value]


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _are_counts(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) > 0 and all(map(_is_count, value))


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_is_count, "an integer >= 1"),
    "int | None": (lambda value: value is None or _is_count(value), "an integer >= 1, or None"),
    "float": (_is_positive, "a number above zero"),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
    "Sequence[int]": (_are_counts, "a sequence of one integer or more, each >= 1"),
}
"""Annotation of an option, whether a value is of that kind, and what to say where it is not."""
