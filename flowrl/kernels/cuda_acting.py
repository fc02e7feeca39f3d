"""Acting on a GPU: a policy's networks, flow and squash as a CUDA graph, one for each number of states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flowrl.flows.flow import Flow
from flowrl.kernels.cuda_graph import WARM_UP, CudaGraph, is_current
from flowrl.kernels.guard import Guard, are_same, are_silent
from flowrl.kernels.torch_internals import is_traced
from flowrl.policies.action_distribution import check_finite

MAX_SHAPES = 8
"""Of states, recorded for one policy; others are acted in without a recording."""


class Actions(NamedTuple):
    """What a policy does in some states.

    :param actions: as it emits them, shape ``(batch, d)``
    :param log_prob: shape ``(batch,)``
    :param values: of the states, shape ``(batch, 1)``; None where no value network was given
    """

    actions: Tensor
    log_prob: Tensor
    values: Tensor | None


class RecordedActor:
    """
    The networks of a policy and its flow. One thread at a time: the recordings' inputs are shared.

    :param flow: of the policy
    :param distribution: how its actions are squashed
    :param latent: the network down to the flow's context
    :param value: network and last layer of the states' values, if they are wanted
    """

    def __init__(
        self, flow: Flow, distribution: Any, latent: nn.Module, value: tuple[nn.Module, nn.Module] | None
    ) -> None:
        self.owners = (distribution, latent, *(value or ()))  # not the flow, which would then never be forgotten
        modules = [part for owner in (flow, latent, *(value or ())) for part in owner.modules()]
        self.guard, self.is_silent = Guard(modules), are_silent(modules)
        self._tensors = [tensor for part in modules for tensor in (*part._parameters.values(), *part._buffers.values())]
        self._tensors = [tensor for tensor in self._tensors if tensor is not None]
        self._addresses: list[int] = []
        self._calls: dict[Any, int] = {}
        self._graphs: dict[Any, CudaGraph] = {}
        self._failed = False

    def __call__(self, flow: Flow, x: Tensor, deterministic: bool) -> Actions | None:
        """
        :param flow: of the policy
        :param x: the networks' input
        :param deterministic: whether to push zeros through the flow in place of noise
        :return: None where torch acts: before the recording, where there can be none, for too many shapes
        :raises ValueError: if an action is not finite
        """
        distribution, latent, *value = self.owners
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        if addresses != self._addresses:
            self._addresses = addresses
            self._graphs.clear()
        key = x.shape, x.dtype, deterministic, flow.training, latent.training
        if key not in self._graphs:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._failed or self._calls[key] <= WARM_UP or len(self._graphs) >= MAX_SHAPES:
                return None

            def function(x: Tensor) -> tuple[Tensor, ...]:
                pi = distribution.proba_distribution(flow(latent(x))).distribution
                if deterministic:
                    actions = pi.center()
                    log_prob = actions.new_zeros(actions.shape[:-1])
                else:
                    actions, log_prob = pi.rsample_and_log_prob()
                values = (value[1](value[0](x)),) if value else ()
                return actions.isfinite().all(), actions, log_prob, *values

            try:
                self._graphs[key] = CudaGraph(function, (x,), x.device)
            except RuntimeError:
                self._failed = True
                return None
        finite, actions, log_prob, *values = self._graphs[key](x)
        if not finite:
            check_finite(actions)  # raises
        return Actions(actions.clone(), log_prob.clone(), values[0].clone() if values else None)


def act(
    flow: Flow,
    distribution: Any,
    latent: nn.Module,
    features: Callable[[], Tensor],
    deterministic: bool,
    value: tuple[nn.Module, nn.Module] | None = None,
) -> Actions | None:
    """See :func:`flowrl.kernels.acting.act`."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cuda") or is_traced():
        return None
    if torch.cuda.is_current_stream_capturing() or (deterministic and value is not None):
        return None  # who asks for values as well reads the log-prob, which is not recorded of the center
    owners = (distribution, latent, *(value or ()))
    actors = _RECORDED.setdefault(flow, {})
    recorded = actors.get(len(owners))
    if recorded is None or not are_same(recorded.owners, owners) or not recorded.guard.holds():
        recorded = actors[len(owners)] = RecordedActor(flow, distribution, latent, value)
    if not recorded.is_silent:
        return None
    x = features()
    return recorded(flow, x, deterministic) if x.is_cuda and is_current(x.device) else None


_RECORDED: WeakKeyDictionary[Flow, dict[int, RecordedActor]] = WeakKeyDictionary()
