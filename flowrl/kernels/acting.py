"""Acting: a policy's networks, flow and squash in one call of C, where no hook and no tracer needs to see inside."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flowrl.flows.flow import Flow
from flowrl.kernels.cuda_acting import Actions
from flowrl.kernels.guard import Guard, are_same, are_silent
from flowrl.kernels.library import POINTER, load, run
from flowrl.kernels.networks import Networks, Perceptron
from flowrl.kernels.program import Program, lowered
from flowrl.kernels.structures import structure
from flowrl.kernels.torch_internals import is_traced
from flowrl.policies.action_distribution import FlowDistribution, check_finite

Act, Stack, FlowJob = structure("Act"), structure("Stack"), structure("Flow")


def act(
    flow: Flow,
    distribution: Any,
    latent: nn.Module,
    features: Callable[[], Tensor],
    deterministic: bool,
    value: tuple[nn.Module, nn.Module] | None = None,
) -> Actions | None:
    """
    :param flow: of the policy
    :param distribution: how its actions are squashed
    :param latent: the network down to the flow's context
    :param features: gives its input, shape ``(batch, n)``
    :param deterministic: whether to push zeros through the flow in place of noise
    :param value: network and last layer of the states' values, if they are wanted
    :return: None where only torch can act: on a GPU, with gradients, without a compiler, under a tracer, for another
        kind of network, where a hook listens
    :raises ValueError: if an action is not finite
    """
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or is_traced():
        return None
    owners = (distribution, latent, *(value or ()))
    actors = _FUSED.setdefault(flow, {})
    fused = actors.get(len(owners))
    if fused is None or fused.was_hooked or not are_same(fused.owners, owners) or not fused.guard.holds():
        fused = actors[len(owners)] = FusedActor(flow, distribution, latent, value)
    if not fused.is_ready():
        return None
    x = features()
    if x.dtype != fused.dtype or x.device.type != "cpu" or x.dim() != 2 or x.shape[1] != fused.inputs:
        return None  # torch raises the clearer error about a wrong shape
    return fused(x.contiguous(), deterministic)


class FusedActor:
    """
    The networks of a policy and its flow in the form of one call. See :func:`act`.
    """

    def __init__(
        self, flow: Flow, distribution: Any, latent: nn.Module, value: tuple[nn.Module, nn.Module] | None
    ) -> None:
        self.owners = (distribution, latent, *(value or ()))  # not the flow, which would then never be forgotten
        modules = [part for owner in (flow, latent, *(value or ())) for part in owner.modules()]
        self.guard = Guard(modules)
        self.dtype = next(flow.parameters(), torch.empty(0)).dtype
        found = lowered(flow)
        self._tensors: list[Tensor] = []  # none: only torch can act
        self._by_batch: list[Networks] = []
        self._seen: list[int] = []  # where they were
        self._shapes: list[Any] = []
        self.was_hooked = not are_silent(modules)
        if found is None or type(distribution) is not FlowDistribution or self.was_hooked:
            return
        read = [_read(latent, flow.context_map), *([_read(*value)] if value else [])]
        if None in read or load(self.dtype) is None:
            return
        networks = [Networks([network]) for network in read]  # type: ignore[list-item]
        self._by_batch = [network for network in networks if network.has_batch_norms]
        program: Program = found.program  # type: ignore[assignment]
        self.program = program.with_squash(distribution.pre_squash) if distribution.squash else program
        self._kept = networks
        self.inputs, self.features, self.has_values = networks[0].widths[0], distribution.action_dim, len(read) > 1
        self._tensors = [*(tensor for network in networks for tensor in network.parameters()), *found.weights()]
        self._shapes = [(tensor.shape, tensor.stride()) for tensor in self._tensors]
        self._addresses = (ctypes.c_void_p * len(self._tensors))()
        self._rows = self.inputs + max(network.rows for network in networks)  # a state's numbers, layer by layer
        self._rows += (len(self.program.steps) + 1) * self.features + self.program.outputs
        start = ctypes.addressof(self._addresses)
        job = Act(features=self.inputs, actions=self.features)
        for name, network in zip(("actor", "critic"), networks):
            setattr(job, name, Stack(weights=start, **network.fields()))
            start += POINTER * len(network.parameters())
        job.flow = FlowJob(features=self.features, weights=start, density=True, **self.program.fields())
        self._job = job

    def is_ready(self) -> bool:
        """Whether the weights, wherever they are now, are such as the kernel reads, and no batch norm trains."""
        if any(network.trains or not network.read_moments() for network in self._by_batch):
            return False
        seen = [tensor.data_ptr() for tensor in self._tensors]
        shapes = [(tensor.shape, tensor.stride()) for tensor in self._tensors]
        if shapes != self._shapes:
            return False
        if seen != self._seen:
            self._seen = []
            for tensor in self._tensors:
                if tensor.dtype != self.dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
                    return False
            self._addresses[:], self._seen = seen, seen  # type: ignore[assignment]
        return bool(seen)

    def __call__(self, x: Tensor, deterministic: bool) -> Actions:
        """
        :param x: the networks' input, shape ``(batch, n)``
        :param deterministic: see :func:`act`
        """
        batch, d = len(x), self.features
        noise = None if deterministic else torch.randn((batch, d), dtype=self.dtype, device="cpu")
        # Memory of its own in every call, so that several threads may act at once
        new = partial(torch.empty, dtype=self.dtype, device="cpu")
        actions, log_prob, values, memory = new((batch, d)), new(batch), new((batch, 1)), new(batch * self._rows)
        job = Act.from_buffer_copy(self._job)
        job.n, job.states, job.memory = batch, x.data_ptr(), memory.data_ptr()
        job.noise = None if noise is None else noise.data_ptr()
        job.out, job.log_prob, job.values = actions.data_ptr(), log_prob.data_ptr(), values.data_ptr()
        if not run(self.dtype, "policy_act", job):
            check_finite(actions)  # raises
        return Actions(actions, log_prob, values if self.has_values else None)


_FUSED: WeakKeyDictionary[Flow, dict[int, FusedActor]] = WeakKeyDictionary()


def _read(network: nn.Module, head: nn.Module) -> Perceptron | None:
    read = Perceptron.read(network)
    return read.followed_by(head) if read is not None else None
