"""Which algorithms have a compiled update."""

from typing import Any

from stable_baselines3 import PPO, SAC

from flowrl.kernels.ppo import ppo_update
from flowrl.kernels.sac import sac_update


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
