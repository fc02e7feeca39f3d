"""Is there a compiled form of it? The one door to `flowrl.kernels`: without that folder the answer is always no."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from flowrl.flows.distribution import NormalizingFlow
    from flowrl.flows.flow import Flow


@cache
def _kernels() -> Any:
    """The package; None where it is not there."""
    try:
        return importlib.import_module("flowrl.kernels")
    except ModuleNotFoundError as error:
        if error.name != "flowrl.kernels":
            raise
        return None


def compiled_flow(flow: Flow, parameters: Tensor) -> NormalizingFlow | None:
    """
    :param flow: the flow
    :param parameters: the context map's output, shape ``(*batch, n)``
    :return: the flow's distribution, whose passes are one call of C each; None where only torch can give it
    """
    if torch.compiler.is_compiling() or _kernels() is None:  # a compiler does not look at the rest
        return None
    return _kernels().compiled_flow(flow, parameters)


def compiled_act(*args: Any) -> Any:
    """
    :param args: see `flowrl.kernels.acting.act`
    :return: a policy's actions, their log-probs and the states' values; None where only torch can act
    """
    if torch.compiler.is_compiling() or _kernels() is None:
        return None
    return _kernels().act(*args)


def compiled_update(model: Any) -> tuple[Any, str]:
    """
    :param model: an algorithm
    :return: its update as a call of C (`flowrl.kernels.sac`, `flowrl.kernels.ppo`) and ""; or None and the reason
    """
    if _kernels() is None:
        return None, "flowrl/kernels is missing"
    return _kernels().compiled_update(model)
