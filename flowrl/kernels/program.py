"""A flow as a program of the kernel: its steps in the form that C reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from flowrl.flows.flow import LOG_STD_MAX, LOG_STD_MIN, Flow
from flowrl.flows.path import Segment
from flowrl.kernels.guard import Guard, are_silent
from flowrl.kernels.lowering import KINDS, Step, lower, network_weights
from flowrl.kernels.structures import structure
from flowrl.transforms.spline import RAW_LIMIT


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
        self.layers: list[Any] = list(layers)
        self.guard = Guard(layers.modules())
        self.log_std_max = log_std_max
        offsets = accumulate((layer.context_size for layer in self.layers), initial=2 * features * is_last)
        steps: list[Any] = [lower(layer, offset) for layer, offset in zip(self.layers, islice(offsets, len(layers)))]
        steps += [Step(KINDS["GAUSSIAN"], offset=0)] * is_last
        self.program = Program(steps, log_std_max) if steps and None not in steps else None

    def is_of(self, flow: Flow) -> bool:
        """Whether a flow's bound is the program's still, and its layers those that it was made of, unhooked."""
        return self.log_std_max == flow.log_std_max and self.guard.holds()

    def weights(self) -> list[Tensor]:
        """Those of the couplings' networks, in the kernel's order."""
        return [weight for layer in self.layers for weight in network_weights(layer)]


_LOWERED: WeakKeyDictionary[Flow, LoweredFlow] = WeakKeyDictionary()


def lowered(flow: Flow) -> LoweredFlow | None:
    """A flow's program; None where the kernel does not know all of its layers, or a hook listens to one."""
    found = _LOWERED.get(flow)
    if found is None or not found.is_of(flow):
        if flow.is_external:
            return None
        found = _LOWERED[flow] = LoweredFlow(flow.layers, flow.features, log_std_max=flow.log_std_max)
        if not are_silent(list(flow.layers.modules())):
            return None
    return found if found.program is not None else None


class LoweredPath(NamedTuple):
    """
    The segments of a flow with noise layers.

    :param segments: of each the program, which is None where the kernel does not know all of its layers
    :param guard: of all layers, the noise among them
    """

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
    if found is None or not (found.guard.holds() and found.segments[-1].is_of(flow)):
        modules = list(flow.layers.modules())
        found = _PATHS[flow] = LoweredPath(
            [LoweredFlow(s.layers, s.features, s.is_last, s.log_std_max) for s in segments], Guard(modules)
        )
        if not are_silent(modules):
            return None
    return found.segments
