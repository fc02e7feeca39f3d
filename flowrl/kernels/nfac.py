"""A whole update of NFAC as one call of C: see csrc/nfac.c."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from flowrl.critics.heads import Atoms, CategoricalHead, FlowHead
from flowrl.critics.return_critic import ReturnCritics
from flowrl.critics.return_distribution import RAW_LIMIT
from flowrl.critics.risk import measure, neutral
from flowrl.kernels.flow import flow_job
from flowrl.kernels.library import POINTER, Memory
from flowrl.kernels.off_policy import OffPolicyUpdate, Parts, read_parts
from flowrl.kernels.structures import constant, structure

Nfac = structure("Nfac")
CATEGORICAL, FLOW = 0, 1


def read_nfac_parts(model: Any) -> tuple[Parts | None, str]:
    """
    :param model: whose networks are looked at anew
    :return: what its update is made of and ""; or None and why C cannot serve
    """
    head = model.critic.head
    is_flow = type(head) is FlowHead and head.objective == "likelihood"
    if not is_flow and type(head) is not CategoricalHead:
        return None, f"the critic's head is {type(head).__name__}, with an objective that the kernel does not know"
    if not is_flow and model.distortion is not neutral:
        return None, "the kernel measures the risk of a flow alone"
    if model.drop_atoms:
        return None, "the kernel does not pool atoms"
    atoms, bins = (head.n_atoms, head.n_bins) if is_flow else (head.size, 1)
    if atoms > constant("MAX_ATOMS") or bins > constant("MAX_BINS"):
        return None, "the critic has more atoms or bins than the kernel has room for"
    return read_parts(model, ReturnCritics)


class NFACUpdate(OffPolicyUpdate):
    """Updates of NFAC: what `flowrl.algorithms.nfac.update.update` returns."""

    call = "nfac_update"

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        self.head = model.critic.head
        self._moves_actor = True
        if isinstance(self.head, FlowHead):
            atoms = self.head.n_atoms
            alike = torch.full((atoms,), 1 / atoms, dtype=self.dtype)
            # The measure of atoms of which one is 1, the others 0, is that one's weight.
            self.weights = measure(Atoms(torch.eye(atoms, dtype=self.dtype), alike), model.distortion).contiguous()

    def _drawn(self, model: Any, noise: list[Tensor]) -> list[Tensor]:
        self._moves_actor = model.moves_actor()
        return noise if self._moves_actor else noise[1:]

    def _prepare(self, job: Any, model: Any) -> None:
        job.of_actor, job.of_critics = self.of_actor.job, self.of_critics.job
        job.reward_scale = model.reward_scale
        job.moves_actor, job.smallest = self._moves_actor, model.actor_pessimism

    def _new_memory(self, n: int) -> tuple[Any, Any, Memory]:
        new = Memory(self.dtype)
        features = self.actor.widths[0]
        d = self.critics.widths[0] - features
        job = Nfac(n=n, features=features, actions=d)
        job.noise = new(2 * n, d)
        noise = list(new.kept[-1].split(n))
        job.all_states, job.state_actions = new(features, 2 * n), new(features + d, n)
        job.to_state_actions = new(self.critics.count, features + d, n)
        job.to_log_prob, job.values = new(n), new(self.critics.count, n)
        of_actor, of_critics = self.of_actor, self.of_critics
        values, gradients = map(ctypes.addressof, (of_actor.values, of_actor.gradients))
        job.actor = self.actor.job(2 * n, new, x=job.all_states, weights=values, to_weights=gradients)
        critics = dict(x=job.state_actions, weights=ctypes.addressof(of_critics.values))
        job.critics = self.critics.job(n, new, **critics, to_weights=ctypes.addressof(of_critics.gradients))
        critics["weights"] = ctypes.addressof(of_critics.target_values)  # type: ignore[arg-type]
        job.targets = self.critics.job(n, new, **critics)
        first_of_flow = POINTER * len(self.actor.parameters())
        job.flow = flow_job(self.program, 2 * n, d, new)
        job.flow.weights, job.flow.to_weights = values + first_of_flow, gradients + first_of_flow
        job.flow.to_ladj = job.to_log_prob

        head, returns = self.head, job.returns
        returns.bound, returns.limit = head.bound, RAW_LIMIT
        if isinstance(head, FlowHead):
            returns.head, returns.bins, returns.atoms = FLOW, head.n_bins, head.n_atoms
            returns.is_fixed = head.is_fixed
            returns.weights = self.weights.data_ptr()
            job.smoothing, job.smoothing_std = new(n, head.n_atoms), head.noise
            noise.append(new.kept[-1])
        else:
            returns.head, returns.bins, returns.atoms = CATEGORICAL, head.size, head.size
        job.target = new(job.returns.atoms, n)
        return job, noise, new
