"""Flow policies for Stable-Baselines3; importing `flowrl` registers them as ``"FlowPolicy"`` and its kin."""

from flowrl.policies.action_density import ActionDensity
from flowrl.policies.actor import FlowCnnPolicy, FlowMultiInputPolicy, FlowPolicy
from flowrl.policies.actor_critic import (
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
