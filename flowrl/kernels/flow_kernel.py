"""A flow policy's actions and log-probs by the C kernel alone: one call each way, with no graph of autograd's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowrl.flows.flow import Flow
from flowrl.kernels import flow as native
from flowrl.kernels.flat import FlatParameters
from flowrl.kernels.flow import Pass, Program
from flowrl.policies.action_distribution import action_program


class FlowKernel:
    """
    A flow and its squash as one program of the kernel.

    :param flow: the flow
    :param program: see :func:`flowrl.policies.action_distribution.action_program`
    :param flat: where the gradients of the weights of its layers' own networks lie
    """

    def __init__(self, flow: Flow, program: Program, flat: FlatParameters) -> None:
        self.flow, self.program = flow, program
        self.weights = flow.native_weights()
        places = {id(parameter): i for i, parameter in enumerate(flat.parameters)}
        self.weight_gradients = [flat.gradients[places[id(weight)]] for weight in self.weights]

    def noise(self, batch: int, like: Tensor) -> Tensor:
        """Standard normal, shape ``(batch, d)``: the numbers that the flow's distribution draws."""
        return torch.randn((batch, self.flow.features), dtype=like.dtype, device=like.device)

    def sample(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Pass]:
        """
        :param parameters: the context map's output, shape ``(batch, n)``; fastest where the batch is contiguous
        :param noise: shape ``(batch, d)``
        :return: actions as the policy emits them, shape ``(batch, d)``, log-probs, ``(batch,)``, and what the gradients
            need
        """
        passed = native.forward(self.program, noise, parameters.t().contiguous(), self.weights, density=True)
        return passed.states[-1].t(), passed.ladj, passed

    def score(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Pass]:
        """
        :param parameters: as for :meth:`sample`
        :param actions: as the policy emits them, before the squash, shape ``(batch, d)``
        :return: log-probs, shape ``(batch,)``, and what the gradients need
        """
        passed = native.forward(
            self.program, actions, parameters.t().contiguous(), self.weights, inverse=True, density=True
        )
        return passed.ladj, passed

    def gradients(self, passed: Pass, to_log_prob: Tensor, inverse: bool) -> Tensor:
        """Write the gradients of the layers' own networks.

        :param passed: what :meth:`sample` or :meth:`score` left
        :param to_log_prob: the loss's gradient in the log-probs, shape ``(batch,)``
        :param inverse: whether it was :meth:`score`
        :return: that in the parameters, shape ``(batch, n)``
        """
        options = dict(inverse=inverse, density=True)
        return native.backward(self.program, passed, None, to_log_prob, self.weight_gradients, **options)[1].t()


def flow_kernel(flow: Flow, distribution: Any, flat: FlatParameters, others: Sequence[Tensor]) -> FlowKernel | None:
    """
    The kernel of a flow policy.

    :param flow: its flow
    :param distribution: its distribution
    :param flat: its parameters
    :param others: those that somebody else writes the gradients of
    :return: None where there is none, or some parameter would get no gradient
    """
    program = action_program(flow, distribution)
    if program is None:
        return None
    written = [*map(id, others), *map(id, flow.native_weights())]
    once = len(written) == len(set(written))  # layers that share weights would overwrite each other's gradients
    if not native.serves(flat.data.dtype, flat.data.device) or not once or {*written} != {*map(id, flat.parameters)}:
        return None
    return FlowKernel(flow, program, flat)
