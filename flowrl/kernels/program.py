"""A flow as a program of the kernel: its steps in the form that C reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from flowrl.flows.flow import LOG_STD_MAX, LOG_STD_MIN, Flow
from flowrl.kernels.lowering import KINDS, Step, lower, network_weights
from flowrl.kernels.structures import structure
from flowrl.kernels.torch_internals import has_global_hooks
from flowrl.transforms.spline import RAW_LIMIT


class Program:
    """
    Steps in the form that the kernel reads.

    :param steps: from noise to value
    """

    def __init__(self, steps: Sequence[Step]):
        self.steps = tuple(steps)
        rows = [sum(step.widths) for step in steps]
        self.outputs = sum(rows)  # of all layers of all networks
        weights = accumulate((max(2 * len(step.widths) - 1, 0) for step in steps), initial=0)
        self._integers: list[Any] = []  # keeps alive what the steps point to
        step_type = structure("Step")
        self.array = (step_type * len(steps))(
            *(
                step_type(
                    *step[:4],
                    *(len(step.keep), self._pointer(step.keep + step.change)),
                    *(len(step.widths), self._pointer(step.widths), first_weight, first_output),
                )
                for step, first_weight, first_output in zip(steps, weights, accumulate(rows, initial=0))
            )
        )
        self.shapes = [shape for step in steps for shape in _network_shapes(step)]

    def fields(self) -> dict[str, Any]:
        """What a C `Flow` is told of its program."""
        return dict(
            count=len(self.steps),
            steps=ctypes.addressof(self.array),
            limit=RAW_LIMIT,
            low=LOG_STD_MIN,
            high=LOG_STD_MAX,
        )

    def with_squash(self, later: bool) -> Program:
        """
        The same flow with a tanh after it.

        :param later: whether values are those before the tanh, and the density is that after it
        """
        return Program([*self.steps, Step(KINDS["SQUASH"], 0, int(later))])

    def _pointer(self, integers: tuple[int, ...]) -> int:
        self._integers.append((ctypes.c_int64 * len(integers))(*integers))
        return ctypes.addressof(self._integers[-1])


def _network_shapes(step: Step) -> list[tuple[int, ...]]:
    """The shapes of a coupling's weights, in the order of :func:`network_weights`."""
    if not step.widths:
        return []
    first, *others = step.widths
    shapes: list[tuple[int, ...]] = [(first, len(step.keep))]
    for before, width in zip(step.widths, others):
        shapes += [(width, before), (width,)]
    return shapes


class LoweredFlow:
    """
    A flow's program, as long as the flow's parts are those that it was made of.

    :param flow: the flow
    """

    def __init__(self, flow: Flow):
        self.layers: list[Any] = list(flow.layers)
        self.modules = [module for layer in flow.layers for module in layer.modules()]
        offsets = accumulate((layer.context_size for layer in self.layers), initial=2 * flow.features)
        steps = [lower(layer, offset) for layer, offset in zip(self.layers, islice(offsets, len(self.layers)))]
        gaussian = Step(KINDS["GAUSSIAN"], offset=0)
        self.program = None if None in steps else Program([*steps, gaussian])  # type: ignore[list-item]

    def weights(self) -> list[Tensor] | None:
        """Those of the couplings' networks; None where they are not those of the program, or a hook listens."""
        weights = [weight for layer in self.layers for weight in network_weights(layer)]
        fits = [weight.shape for weight in weights] == self.program.shapes  # type: ignore[union-attr]
        return weights if fits and are_silent(self.modules) else None


_LOWERED: WeakKeyDictionary[Flow, LoweredFlow] = WeakKeyDictionary()


def lowered(flow: Flow) -> LoweredFlow | None:
    """A flow's program; None where the kernel does not know all of its layers."""
    if flow.is_external:
        return None
    found = _LOWERED.get(flow)
    if found is None or found.layers != [*flow.layers._modules.values()]:
        found = _LOWERED[flow] = LoweredFlow(flow)
    return found if found.program is not None else None


def are_silent(modules: Sequence[nn.Module]) -> bool:
    """Whether no module has a hook or a forward pass of its own, which a call of C would leave out."""
    return not has_global_hooks() and not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        for module in modules
    )
