"""Acting: a policy's networks, flow and squash in one call of C, where no hook and no tracer needs to see inside."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flowrl.flows.flow import Flow
from flowrl.kernels.library import load, pointers, run
from flowrl.kernels.networks import Networks, Perceptron
from flowrl.kernels.program import LoweredFlow, Program, are_silent, lowered
from flowrl.kernels.structures import structure
from flowrl.kernels.torch_internals import is_traced
from flowrl.policies.action_distribution import FlowDistribution, check_finite

Act = structure("Act")


class Actions(NamedTuple):
    """What a policy does in some states.

    :param actions: as it emits them, shape ``(batch, d)``
    :param log_prob: shape ``(batch,)``
    :param values: of the states, shape ``(batch, 1)``; None where no value network was given
    """

    actions: Tensor
    log_prob: Tensor
    values: Tensor | None


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
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or type(distribution) is not FlowDistribution:
        return None
    found = lowered(flow)
    if found is None or is_traced() or not are_silent((flow,)):
        return None
    networks = [_read(latent, flow.context_map)] + ([_read(*value)] if value else [])
    if None in networks:
        return None
    fused = _FUSED.get(flow)
    if fused is None or not fused.is_of(found, distribution, networks):  # type: ignore[arg-type]
        fused = _FUSED[flow] = FusedActor(found, distribution, networks)  # type: ignore[arg-type]
    weights = fused.weights()
    if weights is None:
        return None
    x = features()
    if x.dtype != weights[0].dtype or x.dim() != 2 or x.shape[1] != fused.networks[0].widths[0]:
        return None  # torch raises the clearer error about a wrong shape
    return fused(weights, x.contiguous(), deterministic)


class FusedActor:
    """
    The networks of a policy and its flow in the form of one call.

    :param lowered: the flow
    :param distribution: how its actions are squashed
    :param networks: of the actor, its last layer the flow's context map; and of the values, if they are wanted
    """

    def __init__(self, lowered: LoweredFlow, distribution: FlowDistribution, networks: list[Perceptron]):
        self._made_of = lowered, distribution, networks
        program: Program = lowered.program  # type: ignore[assignment]
        self.program = program.with_squash(distribution.pre_squash) if distribution.squash else program
        self.features = distribution.action_dim
        self.networks = [Networks([network]) for network in networks]

    def is_of(self, lowered: LoweredFlow, distribution: FlowDistribution, networks: list[Perceptron]) -> bool:
        """Whether nothing that it was made of has been replaced."""
        return self._made_of[0] is lowered and self._made_of[1] is distribution and self._made_of[2] == networks

    def weights(self) -> list[Tensor] | None:
        """Of all networks, the flow's last; None where they are not what the kernel reads, or a hook listens."""
        of_flow = self._made_of[0].weights()
        if of_flow is None:
            return None
        weights = [*(tensor for network in self.networks for tensor in network.parameters()), *of_flow]
        dtype, device = weights[0].dtype, weights[0].device
        if device.type != "cpu" or load(dtype) is None:
            return None
        same = all(weight.dtype == dtype and weight.is_contiguous() and weight.device == device for weight in weights)
        return weights if same else None

    def __call__(self, weights: list[Tensor], x: Tensor, deterministic: bool) -> Actions:
        """
        :param weights: of :meth:`weights`
        :param x: the networks' input, shape ``(batch, n)``
        :param deterministic: see :func:`act`
        """
        batch, dtype, d = len(x), x.dtype, self.features
        noise = None if deterministic else torch.randn((batch, d), dtype=dtype, device="cpu")
        rows = self.networks[0].widths[0] + max(network.rows for network in self.networks)
        states = (len(self.program.steps) + 1) * d
        # Memory of its own in every call, so that several threads may act at once
        numbers = torch.empty(batch * (rows + states + self.program.outputs + d + 2), dtype=dtype, device="cpu")
        actions, log_prob, values, memory = numbers.split(
            (batch * d, batch, batch, numbers.numel() - batch * (d + 2))
        )  # fmt: skip
        addresses = pointers(weights)
        start, size = ctypes.addressof(addresses), ctypes.sizeof(ctypes.c_void_p)
        job = Act(
            n=batch,
            features=x.shape[1],
            actions=d,
            states=x.data_ptr(),
            noise=None if noise is None else noise.data_ptr(),
            memory=memory.data_ptr(),
            out=actions.data_ptr(),
            log_prob=log_prob.data_ptr(),
            values=values.data_ptr(),
        )
        for name, network in zip(("actor", "critic"), self.networks):
            part = getattr(job, name)
            for field, number in network.fields().items():
                setattr(part, field, number)
            part.weights = start
            start += 2 * size * (len(network.widths) - 1)
        for field, number in self.program.fields().items():
            setattr(job.flow, field, number)
        job.flow.features, job.flow.weights, job.flow.density = d, start, True
        run(dtype, "policy_act", job)
        return Actions(
            check_finite(actions.view(batch, d)), log_prob, values.unsqueeze(1) if len(self.networks) > 1 else None
        )


_FUSED: WeakKeyDictionary[Flow, FusedActor] = WeakKeyDictionary()


def _read(network: nn.Module, head: nn.Module) -> Perceptron | None:
    read = Perceptron.read(network)
    if read is None or not are_silent((network, head, *network._modules.values())):  # type: ignore[arg-type]
        return None
    return read.followed_by(head)
