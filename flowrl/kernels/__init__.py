"""What makes it fast on a CPU: flows, acting and updates in C, compiled at first use where a C compiler is found.

A leaf: the library works without this folder. Importing it puts it into `flowrl.compiled`, which alone asks it.
"""

import sys
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import ContinuousCritic

from flowrl import compiled
from flowrl.critics.return_critic import ReturnCritics
from flowrl.critics.soft_q import SoftValues
from flowrl.kernels import off_policy, ppo
from flowrl.kernels.acting import act
from flowrl.kernels.fused_flow import compiled_flow, compiled_segments
from flowrl.kernels.networks import STATELESS_EXTRACTORS
from flowrl.kernels.nfac import NFACUpdate, read_nfac_parts
from flowrl.kernels.nfq import NFQUpdate
from flowrl.kernels.sac import SACUpdate

__all__ = ["STATELESS_EXTRACTORS", "act", "compiled_flow", "compiled_segments", "compiled_update"]


def compiled_update(model: Any) -> tuple[Any, str]:
    """
    :param model: an algorithm, whose networks, optimisers and hooks are looked at anew
    :return: its update in C and ""; or None and the reason
    """
    critic = getattr(model, "critic", None)
    found = [
        parts for kinds, parts in _ALGORITHMS.items() if isinstance(model, kinds[0]) and isinstance(critic, kinds[1])
    ]
    if not found:
        return None, f"{type(model).__name__} with a {type(critic).__name__} has no compiled update"
    read_parts, make = found[0]
    update = _UPDATES.get(model)
    if update is None or not update.is_of(model):
        parts, reason = read_parts(model)
        if parts is None:
            return None, reason
        update = _UPDATES[model] = make(model, parts)
    reason = update.why_not(model)
    return (None, reason) if reason else (update, "")


# By algorithm and critic: how a model's parts are found, and what is made of them.
_ALGORITHMS: dict[tuple[type, type], tuple[Any, Any]] = {
    (SAC, ContinuousCritic): (partial(off_policy.read_parts, critic_class=ContinuousCritic), SACUpdate),
    (SAC, ReturnCritics): (read_nfac_parts, NFACUpdate),
    (SAC, SoftValues): (partial(off_policy.read_parts, critic_class=SoftValues), NFQUpdate),
    (PPO, object): (ppo.read_parts, ppo.PPOUpdate),
}
_UPDATES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

compiled.kernels = sys.modules[__name__]
