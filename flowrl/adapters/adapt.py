"""Flows of other libraries as a builder returns them, under this library's interface; none of them is imported."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.distributions import TransformedDistribution

from flowrl.adapters.context_affine import context_affine
from flowrl.adapters.external import ExternalLayer
from flowrl.adapters.nflows import NflowsFlow
from flowrl.adapters.normflows import NormflowsFlow
from flowrl.adapters.torch_distributions import TrainedDistribution


def adapt(built: Any, features: int, context: int) -> Any:
    """
    What a builder returned, as what :class:`flowrl.Flow` is made of.

    =============================================  =============================================================
    nflows ``Transform``                           a layer on the Gaussian of the context
    nflows ``Flow``                                the distribution as it is, given the context
    normflows ``ConditionalNormalizingFlow``       the same
    normflows ``NormalizingFlow``                  knows no context: moved and scaled as the context says
    normflows flow, or a list of them              layers on the Gaussian of the context
    torch ``TransformedDistribution``              knows no context: moved and scaled as the context says
    =============================================  =============================================================

    Transforms and flows of nflows, and those of normflows that take a ``context``, are given it: build them with
    ``context_features=context`` (nflows) or ``num_context_channels=context`` (normflows).

    :param built: the builder's result
    :param features: d
    :param context: dimension of the context, 0: none
    :return: a list of layers, or a module whose ``module(context)`` is a distribution; anything else as it is
    :raises ValueError: where it does not take d features and this context
    """
    if isinstance(built, (Sequence, nn.ModuleList)):
        return [_layer(part, features, context) for part in built]
    if _is(built, "nflows.flows.base", "Flow"):
        return NflowsFlow(built, features, context)
    if _is(built, "normflows.core", "ConditionalNormalizingFlow"):
        return NormflowsFlow(built, features, context)
    if _is(built, "normflows.core", "NormalizingFlow"):
        return context_affine(NormflowsFlow(built, features, 0), features, context)
    if isinstance(built, TransformedDistribution):
        return context_affine(TrainedDistribution(built), features, context)
    layer = _layer(built, features, context)
    return [layer] if isinstance(layer, ExternalLayer) else built


def _is(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class that need not be importable: if its module was never imported, it is not."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _layer(part: Any, features: int, context: int) -> Any:
    """A bijection of another library as a layer; anything else as it is."""
    if _is(part, "nflows.transforms.base", "Transform"):  # data to noise
        return ExternalLayer(part, features, context, forward="inverse", inverse="forward")
    if _is(part, "normflows.flows.base", "Flow"):  # noise to data
        takes_context = "context" in inspect.signature(part.forward).parameters
        return ExternalLayer(part, features, context if takes_context else 0, forward="forward", inverse="inverse")
    return part
