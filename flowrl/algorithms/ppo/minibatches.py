"""A rollout shuffled once an epoch, whose minibatches are views of it."""

from collections.abc import Iterator

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

PARTS = ("observations", "actions", "values", "log_probs", "advantages", "returns")


def shuffled(buffer: RolloutBuffer) -> RolloutBufferSamples:
    """
    All steps of a rollout, in the order in which ``buffer.get`` (SB3 2.9) would hand them out: the same random numbers.

    :param buffer: a full buffer of arrays, see :func:`is_array_backed`
    """
    order = torch.from_numpy(np.random.permutation(buffer.buffer_size * buffer.n_envs))
    if not buffer.generator_ready:
        for name in PARTS:
            setattr(buffer, name, buffer.swap_and_flatten(getattr(buffer, name)))
        buffer.generator_ready = True

    def gather(name: str) -> Tensor:
        array = getattr(buffer, name)
        if name == "actions":
            array = array.astype(np.float32, copy=False)
        tensor = torch.from_numpy(array).index_select(0, order).to(buffer.device)
        return tensor if name in ("observations", "actions") else tensor.flatten()

    return RolloutBufferSamples(*map(gather, PARTS))


def minibatches(rollout: RolloutBufferSamples, size: int) -> Iterator[RolloutBufferSamples]:
    """
    :param rollout: what :func:`shuffled` gave
    :param size: steps in a minibatch
    """
    for parts in zip(*(part.split(size) for part in rollout)):
        yield RolloutBufferSamples(*parts)


def is_array_backed(buffer: RolloutBuffer) -> bool:
    """Whether a buffer is SB3's own of arrays; others (of dictionaries, your own) hand out minibatches themselves."""
    return type(buffer) is RolloutBuffer and "get" not in vars(buffer)
