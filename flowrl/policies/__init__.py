"""Flow policies for Stable-Baselines3; importing `flowrl` registers them as ``"FlowPolicy"`` and its kin."""

from flowrl.policies.density import ActionDensity
from flowrl.policies.off_policy import FlowCnnPolicy, FlowMultiInputPolicy, FlowPolicy
from flowrl.policies.on_policy import (
    FlowActorCriticCnnPolicy,
    FlowActorCriticPolicy,
    FlowMultiInputActorCriticPolicy,
)

__all__ = [
    "ActionDensity",
    "FlowActorCriticCnnPolicy",
    "FlowActorCriticPolicy",
    "FlowCnnPolicy",
    "FlowMultiInputActorCriticPolicy",
    "FlowMultiInputPolicy",
    "FlowPolicy",
]
