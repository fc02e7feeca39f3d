"""Is there a compiled form of it? Where `flowrl.kernels` is not there to answer, there is none."""

from typing import Any

import torch
from torch import Tensor

kernels: Any = None
"""The package `flowrl.kernels`, which puts itself here when `flowrl` imports it: nothing else asks for it."""


def compiled_flow(flow: Any, parameters: Tensor) -> Any:
    """
    :param flow: a :class:`flowrl.Flow`
    :param parameters: the context map's output, shape ``(*batch, n)``
    :return: the flow's distribution, whose passes are one call of C each; None where only torch can give it
    """
    if torch.compiler.is_compiling() or kernels is None:  # a compiler does not look at the rest
        return None
    return kernels.compiled_flow(flow, parameters)


def compiled_segments(flow: Any, segments: Any, parameters: Any) -> Any:
    """
    :param flow: a :class:`flowrl.flows.path.PathFlow`
    :param segments: its layers between the noise layers
    :param parameters: of each segment, shape ``(*batch, n)``
    :return: the segments' transforms, those that the kernels know in C; None where only torch can give them
    """
    if torch.compiler.is_compiling() or kernels is None:
        return None
    return kernels.compiled_segments(flow, segments, parameters)


def compiled_act(*args: Any) -> Any:
    """
    :param args: see `act` of the kernels
    :return: a policy's actions, their log-probs and the states' values; None where only torch can act
    """
    return None if torch.compiler.is_compiling() or kernels is None else kernels.act(*args)


def compiled_update(model: Any) -> tuple[Any, str]:
    """
    :param model: an algorithm
    :return: its update as one call, of C or of a CUDA graph, and ""; or None and the reason
    """
    return (None, "flowrl's kernels are not there") if kernels is None else kernels.compiled_update(model)
