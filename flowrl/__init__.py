"""flowrl: normalizing-flow action distributions for Stable-Baselines3; importing it registers the flow policies."""

from flowrl.callbacks import DensityFigure, FlowLogger
from flowrl.distributions import FlowDistribution
from flowrl.fit import fit_density, fit_variational
from flowrl.flow import Flow
from flowrl.normalizing_flow import NormalizingFlow
from flowrl.policies.registration import register_policies
from flowrl.recipes import DEFAULT_FLOW, available_flows, register_flow
from flowrl.sequence import SequenceFlow
from flowrl.warm_start import from_gaussian

__version__ = "0.1.0"

register_policies()

__all__ = [
    "DEFAULT_FLOW",
    "DensityFigure",
    "Flow",
    "FlowDistribution",
    "FlowLogger",
    "NormalizingFlow",
    "SequenceFlow",
    "available_flows",
    "fit_density",
    "fit_variational",
    "from_gaussian",
    "register_flow",
]
