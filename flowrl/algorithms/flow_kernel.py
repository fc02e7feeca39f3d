"""A flow policy's actions and log-probs by the C kernel alone: one call each way, with no graph of autograd's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowrl.algorithms.flat import FlatParameters
from flowrl.distributions import FlowDistribution
from flowrl.flow import Flow
from flowrl.native import flow as native
from flowrl.native.flow import Pass, Program, Step, StepKind


class FlowKernel:
    """
    A flow and its squash as one program of the kernel.

    :param flow: which has a program
    :param distribution: how its actions are squashed
    :param flat: where the gradients of the weights of its layers' own networks lie
    """

    def __init__(self, flow: Flow, distribution: FlowDistribution, flat: FlatParameters) -> None:
        program: Program = flow.program  # type: ignore[assignment]
        squash = [Step(StepKind.SQUASH, 0, int(distribution.pre_squash))] if distribution.squash else []
        self.program = Program([*program.steps, *squash], program.limits)
        self.flow = flow
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

    def sample_gradients(self, passed: Pass, to_action: Tensor | None, to_log_prob: Tensor) -> Tensor:
        """Write the gradients of the layers' own networks.

        :param passed: what :meth:`sample` left
        :param to_action: the loss's gradient in the actions, shape ``(batch, d)``, or in the first; None for zero
        :param to_log_prob: and in their log-probs
        :return: that in the parameters, shape ``(batch, n)``
        """
        return native.backward(self.program, passed, to_action, to_log_prob, self.weight_gradients, density=True)[1].t()

    def score_gradients(self, passed: Pass, to_log_prob: Tensor) -> Tensor:
        """As :meth:`sample_gradients`, of given actions."""
        options: Any = dict(inverse=True, density=True)
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
    if flow.program is None or type(distribution) is not FlowDistribution:
        return None
    written = [*map(id, others), *map(id, flow.native_weights())]
    once = len(written) == len(set(written))  # layers that share weights would overwrite each other's gradients
    if not native.serves(flat.data.dtype, flat.data.device) or not once or {*written} != {*map(id, flat.parameters)}:
        return None
    return FlowKernel(flow, distribution, flat)
