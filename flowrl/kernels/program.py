"""A flow as a program of the kernel: its steps in the form that C reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from flowrl.flows.flow import LOG_STD_MAX, LOG_STD_MIN, Flow
from flowrl.flows.path import Segment
from flowrl.kernels.guard import Guard, are_silent
from flowrl.kernels.lowering import KINDS, Step, lower, network_weights
from flowrl.kernels.structures import structure
from flowrl.transforms.spline import RAW_LIMIT

LARGEST_LOG_STD_MAX = 86.0  # the kernel's exp in float32 goes to 87, one unit beyond


class Program:
    """
    Steps in the form that the kernel reads.

    :param steps: from noise to value
    :param log_std_max: see :class:`flowrl.Flow`
    """

    def __init__(self, steps: Sequence[Step], log_std_max: float):
        self.steps, self.log_std_max = tuple(steps), log_std_max
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
                    *(len(step.widths), self._pointer(step.widths), first_weight, first_output, step.gain),
                )
                for step, first_weight, first_output in zip(steps, weights, accumulate(rows, initial=0))
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are built anew: they have pointers of their own."""
        return type(self), (self.steps, self.log_std_max)

    def fields(self) -> dict[str, Any]:
        """What a C `Flow` is told of its program."""
        return dict(
            count=len(self.steps),
            steps=ctypes.addressof(self.array),
            limit=RAW_LIMIT,
            low=LOG_STD_MIN,
            high=self.log_std_max,
        )

    def with_squash(self, later: bool) -> Program:
        """
        The same flow with a tanh after it.

        :param later: whether values are those before the tanh, and the density is that after it
        """
        return Program([*self.steps, Step(KINDS["SQUASH"], 0, int(later))], self.log_std_max)

    def _pointer(self, integers: tuple[int, ...]) -> int:
        self._integers.append((ctypes.c_int64 * len(integers))(*integers))
        return ctypes.addressof(self._integers[-1])


class LoweredFlow:
    """
    The program of a flow, or of a segment of one, as long as its parts are those that it was made of.

    :param layers: noise to value
    :param features: d
    :param is_last: whether the scale and mean of the context come after them
    :param log_std_max: see :class:`flowrl.Flow`
    """

    def __init__(self, layers: nn.ModuleList, features: int, is_last: bool = True, log_std_max: float = LOG_STD_MAX):
        self.layers = layers
        self.guard = Guard(layers.modules())
        self.features, self.log_std_max = features, log_std_max
        parts: list[Any] = list(layers)
        *offsets, self.parameters = accumulate((part.context_size for part in parts), initial=2 * features * is_last)
        steps: list[Any] = [lower(part, offset) for part, offset in zip(parts, offsets)]
        steps += [Step(KINDS["GAUSSIAN"], offset=0)] * is_last
        is_known = bool(steps) and None not in steps and log_std_max <= LARGEST_LOG_STD_MAX
        self.program = Program(steps, log_std_max) if is_known else None

    def is_of(self, flow: Flow) -> bool:
        """Whether a flow's bound is the program's still, and its layers those that it was made of, unhooked."""
        return self.layers is flow.layers and self.log_std_max == flow.log_std_max and self.guard.holds()

    def weights(self) -> list[Tensor]:
        """Those of the couplings' networks, in the kernel's order."""
        return [weight for layer in self.layers for weight in network_weights(layer)]

    def check(self, value: Tensor, parameters: Tensor) -> None:
        """:raises ValueError: for values or parameters of another size: C would read beyond their end"""
        for what, tensor, size in (("Values", value, self.features), ("Parameters", parameters, self.parameters)):
            if tensor.shape[-1:] != (size,):
                raise ValueError(
                    f"{what} of this flow have {size} numbers, got a tensor of shape {tuple(tensor.shape)}."
                )


_LOWERED: WeakKeyDictionary[Flow, LoweredFlow] = WeakKeyDictionary()


def lowered(flow: Flow) -> LoweredFlow | None:
    """A flow's program; None where the kernel does not know all of its layers, or a hook listens to one."""
    found = _LOWERED.get(flow)
    if found is None or not found.is_of(flow):
        if flow.is_external or type(flow).transform_of is not Flow.transform_of:
            return None
        found = _LOWERED[flow] = LoweredFlow(flow.layers, flow.features, log_std_max=flow.log_std_max)
        if not are_silent(list(flow.layers.modules())):
            return None
    return found if found.program is not None else None


class LoweredPath(NamedTuple):
    """
    The segments of a flow with noise layers.

    :param layers: the flow's
    :param segments: of each the program, which is None where the kernel does not know all of its layers
    :param guard: of all layers, the noise among them
    """

    layers: nn.ModuleList
    segments: list[LoweredFlow]
    guard: Guard


_PATHS: WeakKeyDictionary[Flow, LoweredPath] = WeakKeyDictionary()


def lowered_segments(flow: Flow, segments: Sequence[Segment]) -> list[LoweredFlow] | None:
    """
    :param flow: with noise layers
    :param segments: its layers, cut at the noise
    :return: the segments' programs; None where a hook listens to a layer
    """
    found = _PATHS.get(flow)
    is_of = found is not None and found.layers is flow.layers and found.segments[-1].log_std_max == flow.log_std_max
    if found is None or not (is_of and found.guard.holds()):
        modules = list(flow.layers.modules())
        found = _PATHS[flow] = LoweredPath(
            flow.layers, [LoweredFlow(s.layers, s.features, s.is_last, s.log_std_max) for s in segments], Guard(modules)
        )
        if not are_silent(modules):
            return None
    return found.segments
