"""Acting without detours: a policy's network, flow and squash in one call of C, where nothing needs to see inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from flowrl.flows.flow import Flow
from flowrl.kernels import flow as native
from flowrl.kernels.library import is_traced
from flowrl.kernels.plain_network import PlainNetwork
from flowrl.kernels.policy import act
from flowrl.policies.action_distribution import FlowDistribution, action_program, check_finite


class LeanActing:
    """
    What a policy with a flow does with its latent network's input when it acts.

    :param flow: the flow; its context is what the network gives
    :param distribution: how its actions are squashed
    """

    def __init__(self, flow: Flow, distribution: FlowDistribution):
        self.flow, self.distribution = flow, distribution
        self.program = action_program(flow, distribution)

    def of(self, flow: Flow, distribution: FlowDistribution) -> LeanActing:
        """This one, or another where a policy's flow or distribution has been replaced."""
        is_same = flow is self.flow and distribution is self.distribution
        return self if is_same else LeanActing(flow, distribution)

    def __call__(
        self, owner: nn.Module, latent: nn.Module, features: Callable[[], Tensor], deterministic: bool
    ) -> Tensor | None:
        """
        :param owner: what is called where this is not
        :param latent: the policy's network down to the flow's context
        :param features: gives its input, shape ``(batch, n)``
        :param deterministic: whether to push zeros through the flow in place of noise
        :return: actions, shape ``(batch, d)``; None where only torch can give them: on a GPU, with gradients, without a
            compiler, under a tracer, for another network, where a hook listens
        :raises ValueError: if an action is not finite
        """
        network = PlainNetwork.read(latent)
        if self.program is None or network is None or not network.active_end:
            return None
        layers = [*network.layers, self.flow.context_map]
        if (
            torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or is_traced()
            or not _are_silent(owner, latent, *latent.children(), self.flow)
        ):
            return None
        if type(layers[-1]) is not nn.Linear or not _are_silent(layers[-1]):
            return None
        weights = [weight for layer in layers for weight in (layer.weight, layer.bias)]
        flow_weights = self.flow.native_weights()
        kinds = {(weight.dtype, weight.device, weight.is_contiguous()) for weight in (*weights, *flow_weights)}
        (dtype, device, contiguous), *others = kinds
        if others or not contiguous or not native.serves(dtype, device):
            return None
        inputs = features()
        if inputs.dtype != dtype or inputs.dim() != 2 or inputs.shape[1] != layers[0].in_features:
            return None  # torch says it better
        d = self.flow.features
        noise = (
            None if deterministic else torch.randn((len(inputs), d), dtype=dtype, device=device)
        )  # as the flow's distribution draws
        is_tanh = network.activation is nn.Tanh
        return check_finite(act(weights, is_tanh, self.program, flow_weights, inputs.contiguous(), noise, d))


def _are_silent(*modules: Any) -> bool:
    """Whether no module has a hook that a call would have to run."""
    return not _has_any_global_hook() and not any(
        module._forward_hooks or module._forward_pre_hooks for module in modules
    )
