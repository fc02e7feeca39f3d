"""What makes it fast on a CPU: flows, acting and updates in C, compiled at first use where a C compiler is found.

A leaf: the library works without this folder. `flowrl.compiled` alone asks it for compiled forms.
"""

from typing import Any

from stable_baselines3 import PPO, SAC

from flowrl.kernels.acting import act
from flowrl.kernels.fused_flow import compiled_flow
from flowrl.kernels.networks import STATELESS_EXTRACTORS
from flowrl.kernels.ppo import ppo_update
from flowrl.kernels.sac import sac_update

__all__ = ["STATELESS_EXTRACTORS", "act", "compiled_flow", "compiled_update"]


def compiled_update(model: Any) -> tuple[Any, str]:
    """
    :param model: an algorithm, whose networks, optimisers and hooks are looked at anew
    :return: its update in C and ""; or None and the reason
    """
    if isinstance(model, SAC):
        return sac_update(model)
    if isinstance(model, PPO):
        return ppo_update(model)
    return None, f"{type(model).__name__} has no compiled update"
