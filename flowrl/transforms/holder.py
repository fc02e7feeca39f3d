"""torch's distributions and transforms as modules, whose parameters are trained, saved and moved."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import Transform as TorchDistributionsTransform
from torch.distributions.transforms import _InverseTransform


class Holder(nn.Module):
    """
    A distribution or transform as a module: the parameters that it holds, and those of its parts, are the module's.

    :param held: it
    :param copied: whether a copy of it is held
    :raises ValueError: if it holds a tensor computed from a parameter, which would go stale
    """

    def __init__(self, held: Distribution | TorchDistributionsTransform, copied: bool = False):
        super().__init__()
        held = lasting(held)
        self._held: Any = copy.deepcopy(held) if copied else held
        found = [place for place in _tensors(self._held) if isinstance(place[2], nn.Parameter)]
        self._places = [(owner, name) for owner, name, _ in found]
        self.trained = nn.ParameterList(parameter for *_, parameter in found)
        self.modules_held = nn.ModuleList(_parts(self._held, nn.Module, set()))

    @property
    def held(self) -> Any:
        """What is held, with the parameters that the module has now: `functional_call` of torch puts others there."""
        for (owner, name), parameter in zip(self._places, self.trained):
            vars(owner)[name] = parameter
        return self._held

    def _apply(self, fn: Any, recurse: bool = True) -> Holder:
        """`Module.to` and its like: what is not trained moves too."""
        super()._apply(fn, recurse)
        for owner, name, value in list(_tensors(self._held)):
            if not isinstance(value, nn.Parameter):
                vars(owner)[name] = fn(value)
        return self


def lasting(held: Any) -> Any:
    """
    A distribution or transform of torch, with the tensors that it holds, in a form that copies and pickles at any time.

    :param held: it; anything else is given back as it is
    :raises ValueError: if it holds a tensor computed from a parameter, which would go stale
    """
    for owner, name, value in _tensors(held):
        if value.requires_grad and not value.is_leaf:
            whose = "a module" if isinstance(held, Distribution) else "a flowrl.layers.Layer"
            raise ValueError(
                f"{type(owner).__name__}.{name} is computed from a parameter and would not follow it in training: "
                f"return {whose} whose forward builds it."
            )
    return _copyable(held, {})


class _Inverse(_InverseTransform):
    """torch's inverse of a transform, whose copies know what they are the inverse of: torch's forget it."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self).copy()


def _copyable(part: Any, made: dict[int, Any]) -> Any:
    """
    Its inverses as `_Inverse`, and no caches: they hold results of a training pass, which cannot be copied.

    :param part: anything
    :param made: what was made of parts by their ids, since parts may refer to each other
    """
    if type(part) in (list, tuple):
        return type(part)(_copyable(one, made) for one in part)
    if not isinstance(part, (Distribution, TorchDistributionsTransform)) or isinstance(part, nn.Module):
        return part
    if id(part) in made:
        return made[id(part)]
    if isinstance(part, _InverseTransform):
        made[id(part)] = _Inverse(_copyable(part.inv, made))
        return made[id(part)]
    twin = made[id(part)] = copy.copy(part)
    if isinstance(twin, TorchDistributionsTransform):
        twin._cache_size = 0
        vars(twin).pop("_cached_x_y", None)
    vars(twin).update({name: _copyable(value, made) for name, value in vars(twin).items()})
    return twin


def _parts(value: Any, kind: Any, seen: set[int]) -> Iterator[Any]:
    """What of a kind a distribution is made of, itself included, each once; a module is not looked into."""
    if id(value) in seen:  # a transform and its inverse refer to each other
        return
    seen.add(id(value))
    if isinstance(value, kind):
        yield value
    if isinstance(value, (list, tuple)):
        parts: Any = value
    elif isinstance(value, (Distribution, TorchDistributionsTransform)) and not isinstance(value, nn.Module):
        parts = list(vars(value).values())
    else:
        return
    for part in parts:
        yield from _parts(part, kind, seen)


def _tensors(held: Any) -> Iterator[tuple[Any, str, Tensor]]:
    """The tensors that a distribution or transform and its parts hold, with their owners and names."""
    for owner in _parts(held, (Distribution, TorchDistributionsTransform), set()):
        if not isinstance(owner, nn.Module):
            yield from ((owner, name, value) for name, value in vars(owner).items() if isinstance(value, Tensor))
