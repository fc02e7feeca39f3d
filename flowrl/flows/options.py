"""The options of a recipe, checked by their annotations before anything is built."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flowrl.options import between, whole

Recipe = TypeVar("Recipe", bound=Callable[..., Any])


def checked_options(recipe: Recipe) -> Recipe:
    """
    The recipe, refusing options that are not of the kind that its signature says: every number is above zero.

    :param recipe: ``recipe(features, context, **options)``, its options annotated as :data:`CHECKS` has them
    """
    annotations = {name: str(parameter.annotation) for name, parameter in inspect.signature(recipe).parameters.items()}

    @functools.wraps(recipe)
    def checked(features: int, context: int, **options: Any) -> Any:
        for name, value in options.items():
            check = CHECKS.get(annotations.get(name, ""))
            try:
                options[name] = check(name, value) if check else value
            except ValueError as error:
                raise ValueError(f"{str(error).removesuffix('.')} (flow {recipe.__name__!r}).") from None
        return recipe(features, context, **options)

    return checked  # type: ignore[return-value]


def options_of(recipe: Callable[..., Any]) -> list[inspect.Parameter]:
    """
    :param recipe: ``recipe(features, context, **options)``
    :return: its options, which come after features and context
    """
    return [*inspect.signature(recipe).parameters.values()][2:]


def _count(name: str, value: Any) -> int:
    return whole(name, value, 1)


def _count_or_none(name: str, value: Any) -> int | None:
    return None if value is None else _count(name, value)


def _counts(name: str, value: Any) -> Sequence[int]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a sequence of one whole number or more, got {value!r}.")
    return tuple(_count(f"{name}[{i}]", size) for i, size in enumerate(value))


def _positive(name: str, value: Any) -> float:
    return between(name, value, 0)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return value


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "int": _count,
    "int | None": _count_or_none,
    "float": _positive,
    "bool": _switch,
    "Sequence[int]": _counts,
}
"""By the annotation of an option: what gives the value back, or raises a ValueError where it is not of that kind."""
