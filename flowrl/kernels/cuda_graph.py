"""A function of tensors as a CUDA graph: its kernels are recorded once, and launched by one call from then on.

At the sizes of reinforcement learning a GPU computes a kernel faster than Python asks for it: an update of soft
actor-critic is some five hundred kernels of two microseconds each. A graph asks for all of them at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

WARM_UP = 3
"""Calls before the recording, in which CUDA's libraries take the memory that they may not ask for during it."""
STAGES = 4
"""Copies from the CPU that may be under way at once."""


def shapes(inputs: Any) -> tuple[Any, ...]:
    """
    :param inputs: tensors, also within dictionaries and tuples
    :return: what a recording depends on, to find it again: their structure, shapes, types and devices
    """
    leaves, structure = pytree.tree_flatten(inputs)
    return str(structure), *(
        (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves
    )


def is_current(device: torch.device) -> bool:
    """
    :param device: a GPU, that of a tensor
    :return: whether it is the one whose kernels are recorded: on any other they would run at once and leave no trace
    """
    stream = torch.cuda.graph.default_capture_stream  # torch has one, of the first device that recorded anything
    return device.index == torch.cuda.current_device() and (stream is None or stream.device == device)


def on_a_side_stream(function: Callable[[], Any]) -> Any:
    """
    Call a function as it is called while it is recorded, on a stream that is not the default one.

    :param function: launches kernels
    :return: what it returns
    """
    here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = function()
    here.wait_stream(stream)
    return result


class CudaGraph:
    """
    A recording of one call. Random numbers go on from one replay to the next, as they would without it.

    :param function: of tensors on a GPU; no line of it may depend on a tensor's value. What it reads beside its inputs,
        and what it writes, is where it was at the recording
    :param inputs: tensors, also within dictionaries and tuples; the recording reads copies of its own, on the device
    :param device: the GPU
    :raises RuntimeError: by torch, where the function waits for the GPU or copies from pageable memory
    """

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> None:
        leaves, structure = pytree.tree_flatten(inputs)
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._staged = _Staged([leaf for leaf in given if _is_staged(leaf)], device)
        self._others = [leaf.to(device, copy=True) for leaf in given if not _is_staged(leaf)]
        staged, others = iter(self._staged.views), iter(self._others)
        own = [next(staged if _is_staged(leaf) else others) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._graph = torch.cuda.CUDAGraph()
        with _nothing_else():
            # Other threads (TensorBoard's, an environment's) may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self.outputs = function(*pytree.tree_unflatten(own, structure))

    def __call__(self, *inputs: Any) -> Any:
        """
        :param inputs: of the recorded structure, shapes and types
        :return: what the function would return; the same tensors in every call, which the next one overwrites
        """
        given = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        self._staged.fill([leaf for leaf in given if _is_staged(leaf)])
        for own, leaf in zip(self._others, (leaf for leaf in given if not _is_staged(leaf)), strict=True):
            own.copy_(leaf, non_blocking=True)
        self._graph.replay()
        return self.outputs


def _is_staged(leaf: Tensor) -> bool:
    return leaf.device.type == "cpu" and leaf.dtype == torch.float32


class _Staged:
    """
    Tensors of the CPU, which reach the GPU in one copy from memory that is pinned.

    :param tensors: examples, of float32
    :param device: the GPU
    """

    def __init__(self, tensors: list[Tensor], device: torch.device) -> None:
        sizes = [tensor.numel() for tensor in tensors]
        self._flat = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        starts = accumulate(sizes, initial=0)
        self.views = [self._flat[start : start + t.numel()].view(t.shape) for t, start in zip(tensors, starts)]
        self._stages = [
            (torch.empty(sum(sizes), dtype=torch.float32, pin_memory=True), torch.cuda.Event())
            for _ in range(STAGES if tensors else 0)
        ]
        self.fill(tensors)

    def fill(self, tensors: list[Tensor]) -> None:
        """
        :param tensors: of the examples' shapes
        """
        if not tensors:
            return
        pinned, copied = self._stages[0]
        self._stages.append(self._stages.pop(0))
        copied.synchronize()  # whoever last used it has left
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=pinned)
        self._flat.copy_(pinned, non_blocking=True)
        copied.record()


@contextmanager
def _nothing_else() -> Iterator[None]:
    """While it lasts, nothing is recorded but what the function asks for; after a failure CUDA is as it was."""
    gc.collect()  # a tensor or a graph that is freed in its midst would spoil it
    collects, here = gc.isenabled(), torch.cuda.current_stream()
    gc.disable()
    try:
        yield
    except RuntimeError:
        # Torch leaves its stream, and a generator that believes it is recorded until the next recording ends.
        torch.cuda.set_stream(here)
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros((), device="cuda")
        raise
    finally:
        if collects:
            gc.enable()
