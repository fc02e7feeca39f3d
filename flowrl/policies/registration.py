"""Registers the flow policies under their names with the algorithms of SB3 and, where installed, of sb3-contrib."""

import importlib.util
from collections.abc import Sequence

from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from flowrl.policies import off_policy as actor
from flowrl.policies import on_policy as actor_critic

NAMES = ("FlowPolicy", "FlowCnnPolicy", "FlowMultiInputPolicy")
ON_POLICY = (
    actor_critic.FlowActorCriticPolicy,
    actor_critic.FlowActorCriticCnnPolicy,
    actor_critic.FlowMultiInputActorCriticPolicy,
)


def register_policies() -> None:
    """Make ``"FlowPolicy"`` and its image and dictionary forms known to every algorithm that can use them."""
    _register(SAC, (actor.FlowPolicy, actor.FlowCnnPolicy, actor.FlowMultiInputPolicy))
    _register(PPO, ON_POLICY)
    _register(A2C, ON_POLICY)
    if importlib.util.find_spec("sb3_contrib") is None:
        return
    from sb3_contrib import TQC, TRPO, CrossQ

    from flowrl.policies import contrib

    _register(TQC, (contrib.FlowTQCPolicy, contrib.FlowTQCCnnPolicy, contrib.FlowTQCMultiInputPolicy))
    _register(CrossQ, (contrib.FlowCrossQPolicy,))
    _register(TRPO, ON_POLICY)


def _register(algorithm: type[BaseAlgorithm], policies: Sequence[type[BasePolicy]]) -> None:
    algorithm.policy_aliases.update(zip(NAMES, policies, strict=False))  # CrossQ has the first form alone
