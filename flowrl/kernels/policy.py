"""The C kernel that acts: a policy's network, flow and squash for a few states in one call."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowrl.kernels.flow import Program
from flowrl.kernels.library import kernel, pointers


def act(
    weights: Sequence[Tensor],
    is_tanh: bool,
    program: Program,
    flow_weights: Sequence[Tensor],
    features: Tensor,
    noise: Tensor | None,
    dimension: int,
) -> Tensor:
    """
    Actions for states, without gradients. All tensors are contiguous and of the dtype of the features.

    :param weights: of the network's layers, matrices and biases in turn; the last layer gives the flow's parameters
    :param is_tanh: whether tanh lies between the layers; ReLU if not
    :param program: the flow's steps, with the squash where there is one
    :param flow_weights: of the networks of its couplings
    :param features: shape ``(batch, n)``
    :param noise: shape ``(batch, d)``; None for zero
    :param dimension: d
    :return: shape ``(batch, d)``
    """
    batch, dtype = len(features), features.dtype
    kind: Any = dict(dtype=dtype, device="cpu")
    widths = (features.shape[1], *(len(bias) for bias in weights[1::2]))
    # Of its own in every call, so that several threads may act at once
    memory = torch.empty(batch * (sum(widths) + (len(program.steps) + 1) * dimension + program.outputs + 1), **kind)
    actions = torch.empty((batch, dimension), **kind)
    kernel(dtype, "policy_act", "nnnpipnpdddpnpppp")(  # type: ignore[misc]
        *(torch.get_num_threads(), batch, len(widths) - 1, (ctypes.c_int64 * len(widths))(*widths), is_tanh),
        *(pointers(weights), *program.head, pointers(flow_weights), dimension, features.data_ptr()),
        *(noise.data_ptr() if noise is not None else None, memory.data_ptr(), actions.data_ptr()),
    )
    return actions
