"""torch's `TransformedDistribution` as a module whose parameters are trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, TransformedDistribution
from torch.distributions.transforms import Transform as TorchDistributionsTransform


class TrainedDistribution(nn.Module):
    """
    A `TransformedDistribution` as a module: the parameters that its base and its transforms hold are trained.

    :param distribution: over vectors; a copy is used
    :raises ValueError: if it holds a tensor computed from a parameter, which would go stale
    """

    def __init__(self, distribution: TransformedDistribution):
        super().__init__()
        for owner, name, value in _tensors(distribution):
            if value.requires_grad and not value.is_leaf:
                raise ValueError(
                    f"{type(owner).__name__}.{name} is computed from a parameter and would not follow it in training: "
                    "return a module whose forward builds the distribution."
                )
        self.distribution = copy.deepcopy(distribution)
        held = [value for _, _, value in _tensors(self.distribution)]
        self.trained = nn.ParameterList(value for value in held if isinstance(value, nn.Parameter))
        self.modules_held = nn.ModuleList(_parts(self.distribution, nn.Module))

    def forward(self) -> TransformedDistribution:
        return self.distribution

    def _apply(self, fn: Any, recurse: bool = True) -> TrainedDistribution:
        """`Module.to` and its like: what is not trained moves too."""
        super()._apply(fn, recurse)
        for owner, name, value in list(_tensors(self.distribution)):
            if not isinstance(value, nn.Parameter):
                vars(owner)[name] = fn(value)
        return self


def _parts(value: Any, kind: type) -> Iterator[Any]:
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


def _tensors(distribution: Distribution) -> Iterator[tuple[Any, str, Tensor]]:
    """The tensors that a distribution and its transforms hold, with their owners and names."""
    for owner in _parts(distribution, (Distribution, TorchDistributionsTransform)):  # type: ignore[arg-type]
        if not isinstance(owner, nn.Module):
            yield from ((owner, name, value) for name, value in vars(owner).items() if isinstance(value, Tensor))
