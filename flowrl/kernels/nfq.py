"""A whole update of NFQ as one call of C: see csrc/nfq.c."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from torch import Tensor

from flowrl.algorithms.nfq.update import MAX_WEIGHT
from flowrl.kernels.flow import flow_job
from flowrl.kernels.library import POINTER, Memory
from flowrl.kernels.off_policy import OffPolicyUpdate
from flowrl.kernels.structures import structure

Nfq = structure("Nfq")


class NFQUpdate(OffPolicyUpdate):
    """Updates of NFQ: the losses of the temperature, the temperature, of Q, and the mean of V."""

    call = "nfq_update"

    def _drawn(self, model: Any, noise: list[Tensor]) -> list[Tensor]:
        return noise if self.of_temperature is not None or model.importance_floor < 1 else []

    def _prepare(self, job: Any, model: Any) -> None:
        job.of_actor, job.of_values = self.of_actor.job, self.of_critics.job
        job.cql_weight = model.cql_weight
        job.floor, job.max_weight = model.importance_floor, MAX_WEIGHT
        job.max_norm = math.inf if model.max_grad_norm is None else model.max_grad_norm

    def _new_memory(self, n: int) -> tuple[Any, Any, Memory]:
        new = Memory(self.dtype)
        features, d = self.actor.widths[0], self.parts.distribution.action_dim
        job = Nfq(n=n, features=features, actions=d)
        job.noise = new(n, d)
        noise = [new.kept[-1]]
        job.x, job.next_x, job.weights, job.to_ladj = new(features, n), new(features, n), new(n), new(n)
        of_actor, of_values = self.of_actor, self.of_critics
        weights, gradients = map(ctypes.addressof, (of_actor.values, of_actor.gradients))
        job.actor = self.actor.job(n, new, x=job.x, weights=weights, to_weights=gradients)
        values, to_values = map(ctypes.addressof, (of_values.values, of_values.gradients))
        job.values = self.critics.job(n, new, x=job.x, weights=values, to_weights=to_values)
        job.targets = self.critics.job(n, new, x=job.next_x, weights=ctypes.addressof(of_values.target_values))  # type: ignore[arg-type]
        first_of_flow = POINTER * len(self.actor.parameters())
        job.scored, job.sampled = (flow_job(self.program, n, d, new) for _ in range(2))
        for flow in (job.scored, job.sampled):
            flow.weights, flow.to_weights = weights + first_of_flow, gradients + first_of_flow
        job.scored.inverse, job.scored.to_ladj = True, job.to_ladj
        return job, noise, new
