"""Replay buffers: sampling without detours, and what they hold of an action.

The same transitions as Stable-Baselines3 draws, gathered straight into tensors.
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from flowrl.policies.action_box import EDGE


def sample(
    buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None, on_the_cpu: bool = False
) -> ReplayBufferSamples:
    """
    Sample a batch as ``buffer.sample`` does (SB3 2.9), with the same random numbers.

    :param buffer: any replay buffer; what is no plain one of arrays samples by itself
    :param batch_size: how many transitions
    :param env: normalises observations and rewards, where there is one
    :param on_the_cpu: whether a batch of a plain buffer stays there, for one who copies it all at once
    :return: the batch, on the buffer's device
    """
    is_plain = type(buffer) is ReplayBuffer and "sample" not in vars(buffer) and not buffer.optimize_memory_usage
    if not is_plain or env is not None:
        return buffer.sample(batch_size, env=env)
    rows = np.random.randint(0, buffer.buffer_size if buffer.full else buffer.pos, size=batch_size)
    rows = rows * buffer.n_envs + np.random.randint(0, high=buffer.n_envs, size=batch_size)

    def gather(array: np.ndarray) -> Any:
        return array.reshape(-1, *array.shape[2:]).take(rows, axis=0)

    ended = gather(buffer.dones)
    if buffer.handle_timeout_termination:
        ended *= 1 - gather(buffer.timeouts)
    parts = [gather(array) for array in (buffer.observations, buffer.actions, buffer.next_observations)]
    parts += [ended[:, None], gather(buffer.rewards)[:, None]]
    device = torch.device("cpu") if on_the_cpu else buffer.device
    # A gathered array is nobody else's: no copy is needed on the CPU.
    return ReplayBufferSamples(*(torch.from_numpy(part).to(device, non_blocking=True) for part in parts))


def hold_pre_squash(buffer: Any, pre_squash: bool) -> None:
    """
    Make a buffer's actions what an algorithm learns from, if another kind of algorithm has collected them.

    A buffer says by its attribute ``holds_pre_squash`` which form they have. One that does not is SB3's own or an
    earlier version's: SAC's lie in [-1, 1], and beyond there is u alone. An action on the edge of the box counts as a
    little inside.

    :param buffer: a replay buffer, which is changed
    :param pre_squash: whether it shall hold u = atanh(a) (NFQ), else a, scaled to [-1, 1] (SAC, NFAC)
    """
    if not isinstance(getattr(buffer, "actions", None), np.ndarray):
        return
    filled = buffer.actions if buffer.full else buffer.actions[: buffer.pos]
    holds_pre_squash = getattr(buffer, "holds_pre_squash", None)
    if holds_pre_squash is None:
        holds_pre_squash = bool((np.abs(filled) > 1).any())
    if pre_squash and not holds_pre_squash:
        filled[:] = np.arctanh(np.clip(filled, EDGE - 1, 1 - EDGE))
    elif holds_pre_squash and not pre_squash:
        filled[:] = np.tanh(filled)
    buffer.holds_pre_squash = pre_squash
