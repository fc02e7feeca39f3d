"""Minibatches of a rollout: shuffled once an epoch, then handed out as views."""

from collections.abc import Iterator

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

PARTS = ("observations", "actions", "values", "log_probs", "advantages", "returns")


def minibatches(buffer: RolloutBuffer, batch_size: int | None) -> Iterator[RolloutBufferSamples]:
    """
    The minibatches of one epoch, those of ``buffer.get(batch_size)`` (SB3 2.9), with the same random numbers.

    :param buffer: a full buffer; what is no plain one of arrays hands out its own
    :param batch_size: steps in a minibatch; None: all
    """
    if type(buffer) is not RolloutBuffer:
        yield from buffer.get(batch_size)
        return
    order = np.random.permutation(buffer.buffer_size * buffer.n_envs)
    if not buffer.generator_ready:
        for name in PARTS:
            setattr(buffer, name, buffer.swap_and_flatten(getattr(buffer, name)))
        buffer.generator_ready = True
    index = torch.from_numpy(order)

    def shuffled(name: str) -> Tensor:
        array = getattr(buffer, name)
        if name == "actions":
            array = array.astype(np.float32, copy=False)
        tensor = torch.from_numpy(array).index_select(0, index).to(buffer.device)
        return tensor if name in ("observations", "actions") else tensor.flatten()

    parts = [shuffled(name).split(batch_size or len(order)) for name in PARTS]
    for batch in zip(*parts):
        yield RolloutBufferSamples(*batch)
