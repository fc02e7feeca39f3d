"""A whole update of SAC with a flow as one call of C: see flowrl/kernels/csrc/sac.c."""

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from flowrl.kernels.flat import FlatAdam, FlatParameters
from flowrl.kernels.flow_kernel import FlowKernel
from flowrl.kernels.sac import SacUpdate
from flowrl.kernels.stack import Stack

MAX_SIZES = 2  # of batches that memory is kept for


class SacKernel:
    """
    Updates of a model by the kernel.

    :param model: its settings are read at every update
    :param actor: its networks
    :param flow: its flow
    :param critics: its critics
    :param targets: and their targets
    :param target: where the weights of those lie
    """

    def __init__(
        self, model: Any, actor: Stack, flow: FlowKernel, critics: Stack, targets: Stack, target: FlatParameters
    ) -> None:
        self.model, self.flow, self.target = model, flow, target
        parts = (actor, flow.program, flow.weights, flow.weight_gradients, critics, targets)
        self._of_size = lru_cache(MAX_SIZES)(partial(SacUpdate, *parts))

    def serves(self) -> bool:
        """Whether nothing stands in the way now: no optimiser's hook, no frozen parameter."""
        return all(optimizer.is_plain() for optimizer in self._optimizers() if optimizer is not None)

    def update(
        self, batch: ReplayBufferSamples, features: Tensor, next_features: Tensor, move_targets: bool
    ) -> list[float]:
        """
        :param batch: of transitions
        :param features: of the states, shape ``(batch, n)``
        :param next_features: of the next states
        :param move_targets: whether the target networks follow
        :return: the losses, in the order of :data:`flowrl.algorithms.sac.sac.LOSSES`
        """
        model, size = self.model, len(features)
        update = self._of_size(size)
        job, (actor, critics, temperature) = update.job, self._optimizers()
        actor.describe(job.of_actor)
        critics.describe(job.of_critics)
        job.of_critics.follow(self.target.data if move_targets else None, model.tau)
        if temperature is None:
            job.log_alpha, job.alpha = None, model.ent_coef_tensor.item()
        else:
            temperature.describe(job.of_temperature)
            job.log_alpha, job.target_entropy = job.of_temperature.values, float(model.target_entropy)
        # As SB3's: replay buffers hold float32, and it multiplies their dones first
        job.discount = np.float32(model.gamma)
        # One after the other, as two distributions draw
        noise = torch.cat([self.flow.noise(size, self.target.data) for _ in range(2)])
        return update.run((features, next_features, batch.actions, batch.rewards, batch.dones, noise, batch.discounts))

    def _optimizers(self) -> tuple[FlatAdam, FlatAdam, FlatAdam | None]:
        model = self.model
        return model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer
