"""Computations that need nothing of each other: one after the other, or at once where a GPU can."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def side_by_side(*parts: Callable[[], Any]) -> list[Any]:
    """
    Call functions of which none reads what another writes.

    While a CUDA graph is recorded, each gets a stream of its own, so that the GPU computes them at the same time: their
    kernels are far too small to fill it. Their backward passes then run side by side, too.

    :param parts: the functions; they are called in this order, and draw their random numbers in it
    :return: what they return
    """
    if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return [part() for part in parts]
    here = torch.cuda.current_stream()
    streams = [here, *(torch.cuda.Stream() for _ in parts[1:])]
    for stream in streams[1:]:
        stream.wait_stream(here)
    results = []
    for part, stream in zip(parts, streams):
        with torch.cuda.stream(stream):
            results.append(part())
    for result, stream in zip(results[1:], streams[1:]):
        here.wait_stream(stream)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                leaf.record_stream(here)  # its memory is not the other stream's to give away while it is read here
    return results
