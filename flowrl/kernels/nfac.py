"""A whole update of NFAC as one call of C: see csrc/nfac.c."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from flowrl.algorithms.sac.update import polyak_update
from flowrl.critics.heads import Atoms, CategoricalHead, FlowHead, ScalarHead
from flowrl.critics.return_critic import ReturnCritics
from flowrl.critics.return_distribution import RAW_LIMIT
from flowrl.critics.risk import measure, neutral
from flowrl.kernels.library import Memory
from flowrl.kernels.off_policy import Parts, read_parts
from flowrl.kernels.sac import SACUpdate
from flowrl.kernels.structures import constant, enumeration, structure

Nfac = structure("Nfac")
HEADS = enumeration("Head")


def read_nfac_parts(model: Any) -> tuple[Parts | None, str]:
    """
    :param model: whose networks are looked at anew
    :return: what its update is made of and ""; or None and why C cannot serve
    """
    head = model.critic.head
    is_flow = type(head) is FlowHead and head.objective == "likelihood"
    if not is_flow and type(head) not in (CategoricalHead, ScalarHead):
        return None, f"the critic's head is {type(head).__name__}, with an objective that the kernel does not know"
    if type(head) is CategoricalHead and model.distortion is not neutral:
        return None, "the kernel does not measure the risk of a categorical critic"
    atoms, bins = (head.n_atoms, head.n_bins) if is_flow else (head.size, 1)
    if atoms > constant("MAX_ATOMS") or bins > constant("MAX_BINS"):
        return None, "the critic has more atoms or bins than the kernel has room for"
    parts, reason = read_parts(model, ReturnCritics)
    if parts is not None and model.critic.has_batch_statistics != parts.critics[0].has_batch_norms:
        return None, "batch norms have been put into the critics, or taken out of them"
    return parts, reason


class NFACUpdate(SACUpdate):
    """Updates of NFAC: what `flowrl.algorithms.nfac.update.update` returns."""

    call = "nfac_update"
    job_type = Nfac

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        self.head, self.distortion = model.critic.head, model.distortion
        self._by_batch = [networks for networks in (self.actor, self.critics) if networks.has_batch_norms]
        if isinstance(self.head, FlowHead):
            atoms = self.head.n_atoms
            alike = torch.full((atoms,), 1 / atoms, dtype=self.dtype)
            # The measure of atoms of which one is 1, the others 0, is that one's weight.
            self.weights = measure(Atoms(torch.eye(atoms, dtype=self.dtype), alike), model.distortion).contiguous()

    def is_of(self, model: Any) -> bool:
        return self.distortion is model.distortion and super().is_of(model)

    def why_not(self, model: Any) -> str:
        if model.drop_atoms:
            return "the kernel does not pool atoms"
        if not all(networks.read_moments() for networks in self._by_batch):
            return "moments of batch norms differ from the weights in type, size or device, or are not contiguous"
        return super().why_not(model)

    def __call__(self, model: Any, batch: ReplayBufferSamples, move_targets: bool) -> list[float]:
        follows = move_targets and not self.critics.has_batch_norms
        if not (model.critic.architecture.unit_norm or model.actor.architecture.unit_norm):
            return super().__call__(model, batch, follows)
        losses = super().__call__(model, batch, False)
        model.policy.project()  # and then the targets follow, as in torch
        if follows:
            polyak_update(model.critic.parameters(), model.critic_target.parameters(), model.tau)
        return losses

    def _drawn(self, model: Any, noise: list[Tensor]) -> list[Tensor]:
        return noise if model.moves_actor else noise[1:]

    def _prepare(self, job: Any, model: Any) -> None:
        super()._prepare(job, model)
        job.reward_scale = model.reward_scale
        if isinstance(self.head, FlowHead):
            job.smoothing_std = self.head.noise
        job.moves_actor, job.smallest = model.moves_actor, model.actor_pessimism

    def _losses(self, job: Any) -> list[float]:
        return [*job.losses, job.value, job.clipped]

    def _new_memory(self, n: int) -> tuple[Any, Any, Memory]:
        job, noise, new = super()._new_memory(n)
        job.values = new(self.critics.count, n)
        head, returns = self.head, job.returns
        returns.bound, returns.limit = head.bound, RAW_LIMIT
        if isinstance(head, FlowHead):
            returns.head, returns.bins, returns.atoms = HEADS["FLOW"], head.n_bins, head.n_atoms
            returns.is_fixed = head.is_fixed
            returns.weights = self.weights.data_ptr()
            job.smoothing = new(n, head.n_atoms)
            noise = [*noise, new.kept[-1]]
        else:
            name = "SCALAR" if isinstance(head, ScalarHead) else "CATEGORICAL"
            returns.head, returns.bins, returns.atoms = HEADS[name], head.size, head.size
        job.target = new(job.returns.atoms, job.critics.n)
        return job, noise, new
