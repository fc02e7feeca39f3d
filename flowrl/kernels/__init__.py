"""What makes it fast on a CPU: flows, acting and updates in C, compiled at first use where a C compiler is found.

A leaf: the library works without this folder. Importing it puts it into `flowrl.compiled`, which alone asks it.
"""

import sys
from typing import Any
from weakref import WeakKeyDictionary

from stable_baselines3 import PPO, SAC

from flowrl import compiled
from flowrl.kernels import ppo, sac
from flowrl.kernels.acting import act
from flowrl.kernels.fused_flow import compiled_flow, compiled_segments
from flowrl.kernels.networks import STATELESS_EXTRACTORS

__all__ = ["STATELESS_EXTRACTORS", "act", "compiled_flow", "compiled_segments", "compiled_update"]


def compiled_update(model: Any) -> tuple[Any, str]:
    """
    :param model: an algorithm, whose networks, optimisers and hooks are looked at anew
    :return: its update in C and ""; or None and the reason
    """
    found = next((parts for algorithm, parts in _ALGORITHMS.items() if isinstance(model, algorithm)), None)
    if found is None:
        return None, f"{type(model).__name__} has no compiled update"
    read_parts, make = found
    update = _UPDATES.get(model)
    if update is None or not update.is_of(model):
        parts, reason = read_parts(model)
        if parts is None:
            return None, reason
        update = _UPDATES[model] = make(model, parts)
    reason = update.why_not(model)
    return (None, reason) if reason else (update, "")


_ALGORITHMS: dict[type, Any] = {SAC: (sac.read_parts, sac.SACUpdate), PPO: (ppo.read_parts, ppo.PPOUpdate)}
_UPDATES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

compiled.kernels = sys.modules[__name__]
