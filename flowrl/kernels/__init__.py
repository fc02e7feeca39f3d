"""What makes it fast: flows, acting and updates in C, compiled at first use where a C compiler is found; on a GPU
acting and updates as CUDA graphs.

A leaf: the library works without this folder. Importing it puts it into `flowrl.compiled`, which alone asks it.
"""

import sys
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import ContinuousCritic

from flowrl import compiled
from flowrl.critics.return_critic import ReturnCritics
from flowrl.critics.soft_q import SoftValues
from flowrl.kernels import acting, cuda_acting, off_policy, ppo
from flowrl.kernels.cuda_updates import (
    RecordedNFACUpdate,
    RecordedNFQUpdate,
    RecordedPPOUpdate,
    RecordedSACUpdate,
    RecordedUpdate,
    bring_back_steps,
)
from flowrl.kernels.fused_flow import compiled_flow, compiled_segments
from flowrl.kernels.networks import STATELESS_EXTRACTORS
from flowrl.kernels.nfac import NFACUpdate, read_nfac_parts
from flowrl.kernels.nfq import NFQUpdate
from flowrl.kernels.sac import SACUpdate

__all__ = ["STATELESS_EXTRACTORS", "act", "compiled_flow", "compiled_segments", "compiled_update"]


def compiled_update(model: Any) -> tuple[Any, str]:
    """
    :param model: an algorithm, whose networks, optimisers and hooks are looked at anew
    :return: its update in C, or as a CUDA graph, and ""; or None and the reason
    """
    if model.device.type == "cuda":
        return recorded_update(model)
    found = _of_its_kind(_ALGORITHMS, model)
    if found is None:
        return None, f"{_kind(model)} has no compiled update"
    read_parts, make = found
    update = _UPDATES.get(model)
    if update is None or not update.is_of(model):
        parts, reason = read_parts(model)
        if parts is None:
            return None, reason
        update = _UPDATES[model] = make(model, parts)
    reason = update.why_not(model)
    return (None, reason) if reason else (update, "")


def recorded_update(model: Any) -> tuple[Any, str]:
    """
    :param model: an algorithm on a GPU
    :return: its update as a CUDA graph and ""; or None and the reason
    """
    make = _of_its_kind(_RECORDED, model)
    if make is None:
        return None, f"{_kind(model)} has no recorded update"
    update = _UPDATES.get(model)
    if not isinstance(update, RecordedUpdate) or not update.is_of(model):
        update = _UPDATES[model] = make(model)
    reason = update.why_not(model)
    if reason:
        bring_back_steps(model)
    return (None, reason) if reason else (update, "")


def _of_its_kind(table: dict[tuple[type, type], Any], model: Any) -> Any:
    """What a table has for a model's algorithm and critic; None if nothing."""
    critic = getattr(model, "critic", None)
    return next(
        (each for (of, judge), each in table.items() if isinstance(model, of) and isinstance(critic, judge)), None
    )


def _kind(model: Any) -> str:
    return f"{type(model).__name__} with a {type(getattr(model, 'critic', None)).__name__}"


def act(flow: Any, *args: Any) -> Any:
    """
    :param flow: of a policy
    :param args: see :func:`flowrl.kernels.acting.act`
    :return: what it does, by one call of C or of a CUDA graph; None where only torch can act
    """
    first = next(flow.parameters(), None) if torch.cuda.is_initialized() else None
    return (acting if first is None or not first.is_cuda else cuda_acting).act(flow, *args)


# By algorithm and critic: how a model's parts are found, and what is made of them.
_ALGORITHMS: dict[tuple[type, type], tuple[Any, Any]] = {
    (SAC, ContinuousCritic): (partial(off_policy.read_parts, critic_class=ContinuousCritic), SACUpdate),
    (SAC, ReturnCritics): (read_nfac_parts, NFACUpdate),
    (SAC, SoftValues): (partial(off_policy.read_parts, critic_class=SoftValues), NFQUpdate),
    (PPO, object): (ppo.read_parts, ppo.PPOUpdate),
}
_RECORDED: dict[tuple[type, type], Any] = {
    (SAC, ContinuousCritic): RecordedSACUpdate,
    (SAC, ReturnCritics): RecordedNFACUpdate,
    (SAC, SoftValues): RecordedNFQUpdate,
    (PPO, object): RecordedPPOUpdate,
}
_UPDATES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

compiled.kernels = sys.modules[__name__]
