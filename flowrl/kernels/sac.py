"""A whole update of SAC with a flow as one call of C: see csrc/sac.c."""

from __future__ import annotations

import ctypes
from typing import Any

from stable_baselines3 import SAC

from flowrl.kernels.bfloat16 import is_rounded
from flowrl.kernels.flow import flow_job
from flowrl.kernels.library import POINTER, Memory
from flowrl.kernels.off_policy import OffPolicyUpdate
from flowrl.kernels.structures import structure

Sac = structure("Sac")


class SACUpdate(OffPolicyUpdate):
    """Updates of SAC: the losses of the temperature, the temperature, of the critics and of the actor."""

    call = "sac_update"
    job_type: Any = Sac

    def _prepare(self, job: Any, model: SAC) -> None:
        job.of_actor, job.of_critics = self.of_actor.job, self.of_critics.job
        rounded = is_rounded(self.dtype)
        job.actor.rounded = rounded * self.actor.last_rounded
        job.critics.rounded = job.targets.rounded = rounded * self.critics.last_rounded

    def _new_memory(self, n: int) -> tuple[Any, Any, Memory]:
        new = Memory(self.dtype)
        features = self.actor.widths[0]
        d = self.critics.widths[0] - features
        job = self.job_type(n=n, features=features, actions=d)
        job.noise = new(2 * n, d)
        noise = new.kept[-1].split(n)
        columns = 2 * n if self.critics.has_batch_norms else n
        job.all_states, job.state_actions = new(features, 2 * n), new(features + d, columns)
        job.to_state_actions = new(self.critics.count, features + d, columns)
        job.td_target, job.to_log_prob = new(n), new(n)
        of_actor, of_critics = self.of_actor, self.of_critics
        values, gradients = map(ctypes.addressof, (of_actor.values, of_actor.gradients))
        job.actor = self.actor.job(2 * n, new, x=job.all_states, weights=values, to_weights=gradients)
        critics = dict(x=job.state_actions, weights=ctypes.addressof(of_critics.values))
        job.critics = self.critics.job(columns, new, **critics, to_weights=ctypes.addressof(of_critics.gradients))
        critics["weights"] = ctypes.addressof(of_critics.target_values)  # type: ignore[arg-type]
        job.targets = self.critics.job(n, new, **critics)
        first_of_flow = POINTER * len(self.actor.parameters())
        job.flow = flow_job(self.program, 2 * n, d, new)
        job.flow.weights, job.flow.to_weights = values + first_of_flow, gradients + first_of_flow
        job.flow.to_ladj = job.to_log_prob
        return job, noise, new
