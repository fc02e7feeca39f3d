"""torch's distributions and transforms as modules, whose parameters are trained, saved and moved."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import Transform as TorchDistributionsTransform


class Holder(nn.Module):
    """
    A distribution or transform as a module: the parameters that it holds, and those of its parts, are the module's.

    :param held: it; a copy is used
    :raises ValueError: if it holds a tensor computed from a parameter, which would go stale
    """

    def __init__(self, held: Distribution | TorchDistributionsTransform):
        super().__init__()
        for owner, name, value in _tensors(held):
            if value.requires_grad and not value.is_leaf:
                raise ValueError(
                    f"{type(owner).__name__}.{name} is computed from a parameter and would not follow it in training: "
                    "return a module whose forward builds it."
                )
        self.held: Any = copy.deepcopy(held)
        tensors = [value for _, _, value in _tensors(self.held)]
        self.trained = nn.ParameterList(value for value in tensors if isinstance(value, nn.Parameter))
        self.modules_held = nn.ModuleList(_parts(self.held, nn.Module))

    def _apply(self, fn: Any, recurse: bool = True) -> Holder:
        """`Module.to` and its like: what is not trained moves too."""
        super()._apply(fn, recurse)
        for owner, name, value in list(_tensors(self.held)):
            if not isinstance(value, nn.Parameter):
                vars(owner)[name] = fn(value)
        return self


def _parts(value: Any, kind: Any) -> Iterator[Any]:
    """What of a kind a distribution is made of, itself included; a module is not looked into."""
    if isinstance(value, kind):
        yield value
    if isinstance(value, (list, tuple)):
        parts: Any = value
    elif isinstance(value, (Distribution, TorchDistributionsTransform)) and not isinstance(value, nn.Module):
        parts = vars(value).values()
    else:
        return
    for part in parts:
        yield from _parts(part, kind)


def _tensors(held: Any) -> Iterator[tuple[Any, str, Tensor]]:
    """The tensors that a distribution or transform and its parts hold, with their owners and names."""
    for owner in _parts(held, (Distribution, TorchDistributionsTransform)):
        if not isinstance(owner, nn.Module):
            yield from ((owner, name, value) for name, value in vars(owner).items() if isinstance(value, Tensor))
