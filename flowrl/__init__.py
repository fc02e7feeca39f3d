"""flowrl: normalizing-flow action distributions for Stable-Baselines3; importing it registers the flow policies."""

import importlib

from flowrl import envs  # registers them
from flowrl.callbacks import DensityFigure, FlowLogger, TaskReturns
from flowrl.diverged import Diverged
from flowrl.fit import fit_density, fit_variational
from flowrl.flows.chunks import SequenceFlow
from flowrl.flows.distribution import NormalizingFlow
from flowrl.flows.flow import Flow
from flowrl.flows.recipes import DEFAULT_FLOW, available_flows, register_flow
from flowrl.forked import use_one_thread_after_a_fork
from flowrl.moved import find_moved_modules
from flowrl.policies.action_distribution import FlowDistribution
from flowrl.policies.latent import latent_policy
from flowrl.policies.registration import register_policies
from flowrl.policies.warm_start import from_gaussian

__version__ = "0.1.0"

find_moved_modules()
use_one_thread_after_a_fork()
register_policies()

try:
    importlib.import_module("flowrl.kernels")  # the compiled forms, which nothing needs
except ModuleNotFoundError as error:
    if error.name != "flowrl.kernels":
        raise

__all__ = [
    "DEFAULT_FLOW",
    "DensityFigure",
    "Diverged",
    "Flow",
    "FlowDistribution",
    "FlowLogger",
    "NormalizingFlow",
    "SequenceFlow",
    "TaskReturns",
    "available_flows",
    "envs",
    "fit_density",
    "fit_variational",
    "from_gaussian",
    "latent_policy",
    "register_flow",
]
