"""torch's distributions and transforms as modules, whose parameters are trained, saved and moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import Transform as TorchDistributionsTransform


class Holder(nn.Module):
    """
    A distribution or transform as a module: the parameters that it holds, and those of its parts, are the module's.

    :param held: it
    :raises ValueError: if it holds a tensor computed from a parameter, which would go stale
    """

    def __init__(self, held: Distribution | TorchDistributionsTransform):
        super().__init__()
        tensors = list(_tensors(held))
        for owner, name, value in tensors:
            if value.requires_grad and not value.is_leaf:
                whose = "a module" if isinstance(held, Distribution) else "a flowrl.layers.Layer"
                raise ValueError(
                    f"{type(owner).__name__}.{name} is computed from a parameter and would not follow it in training: "
                    f"return {whose} whose forward builds it."
                )
        self._held: Any = held
        self._places = [(owner, name) for owner, name, value in tensors if isinstance(value, nn.Parameter)]
        self.trained = nn.ParameterList(vars(owner)[name] for owner, name in self._places)
        self.modules_held = nn.ModuleList(_parts(held, nn.Module, set()))

    @property
    def held(self) -> Any:
        """It, with the parameters that are the module's now: `torch.func.functional_call` may have put others there."""
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


def _parts(value: Any, kind: Any, seen: set[int]) -> Iterator[Any]:
    """What of a kind a distribution is made of, itself included, each once; a module is not looked into."""
    if id(value) in seen:  # a transform that has been inverted knows its inverse, and that it
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
