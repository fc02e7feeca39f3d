"""Flows: a module that maps a context to an exact distribution, and its recipes by name."""

from flowrl.flows.chunks import SequenceFlow
from flowrl.flows.distribution import NormalizingFlow, ReparameterizedDistribution
from flowrl.flows.flow import Flow
from flowrl.flows.recipes import DEFAULT_FLOW, available_flows, register_flow

__all__ = [
    "DEFAULT_FLOW",
    "Flow",
    "NormalizingFlow",
    "ReparameterizedDistribution",
    "SequenceFlow",
    "available_flows",
    "register_flow",
]
