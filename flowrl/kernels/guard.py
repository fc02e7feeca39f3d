"""Whether modules still are what a compiled form was made of: asked before every call, so that it must be quick."""

from collections.abc import Iterable, Sequence
from operator import is_, is_not

from torch import nn

from flowrl.kernels.torch_internals import has_global_hooks

NUMBERS: dict[type[nn.Module], tuple[str, ...]] = {nn.LayerNorm: ("eps",)}
AUTOCAST = "autocast is on, and a call of C computes in the weights' own precision"
HOOKED = "a hook listens to a network, or one has a forward pass of its own"


class Guard:
    """
    Notices a part or a parameter that was replaced, a hook, a method of an instance's own, and a change of the numbers
    that a module's class says compiled forms hold (``compiled_numbers``; of torch's classes, see ``NUMBERS``).

    :param modules: as they were when they were looked at
    """

    def __init__(self, modules: Iterable[nn.Module]):
        modules = list(modules)
        # A method that is set on an instance is one attribute more
        self._seen = [
            (m.__dict__, len(m.__dict__), list(m._modules.values()), list(m._parameters.values())) for m in modules
        ]
        numbers = [(m, getattr(type(m), "compiled_numbers", NUMBERS.get(type(m), ()))) for m in modules]
        named = [(m.__dict__, name) for m, names in numbers for name in names]
        self._numbers = [(attributes, name, attributes.get(name)) for attributes, name in named]

    def holds(self) -> bool:
        """Whether everything is as it was, and no hook listens."""
        if has_global_hooks() or any(attributes.get(name) != value for attributes, name, value in self._numbers):
            return False
        for attributes, count, modules, parameters in self._seen:
            if (
                len(attributes) != count
                or attributes["_forward_hooks"]
                or attributes["_forward_pre_hooks"]
                or attributes["_backward_hooks"]
                or attributes["_backward_pre_hooks"]
                or (modules and list(attributes["_modules"].values()) != modules)
                or (parameters and any(map(is_not, attributes["_parameters"].values(), parameters)))
            ):
                return False
        return True


def are_same(first: Sequence[object], second: Sequence[object]) -> bool:
    """Whether these are the same objects in the same order."""
    return len(first) == len(second) and all(map(is_, first, second))


def are_silent(modules: Sequence[nn.Module]) -> bool:
    """Whether no module has a hook or a forward pass of its own, which a call of C would leave out."""
    return Guard(modules).holds() and not any("forward" in vars(module) for module in modules)
