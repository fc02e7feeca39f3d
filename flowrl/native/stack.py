"""The C kernels of stacks of equal networks: forward, and the gradients by hand, on all of torch's threads."""

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.native.library import kernels

_HEAD = "nnnnpiippnp"  # threads, sizes and options; weights, inputs and their distance, outputs


MAX_BUFFERS = 4  # sizes of batches that a stack keeps memory for


class Shape:
    """What networks side by side have in common.

    :param networks: how many
    :param widths: of the inputs, then of each layer's outputs
    :param is_tanh: whether their activation is tanh; ReLU if not
    :param active_end: whether it follows the last layer too
    """

    def __init__(self, networks: int, widths: tuple[int, ...], is_tanh: bool, active_end: bool):
        self.networks, self.inputs = networks, widths[0]
        self.rows = networks * sum(widths[1:])  # of the outputs of all layers of all networks
        self.last = networks * widths[-1]  # and of the last layers
        self._widths = (ctypes.c_int64 * len(widths))(*widths)
        self.arguments = (networks, len(widths) - 1, ctypes.addressof(self._widths), is_tanh, active_end)
        self._buffers: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def buffers(self, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Those of a batch's outputs and of the gradients in them, the same every time: the system takes long to hand
        out as much memory anew.

        :param batch: its size
        :param dtype: its type
        :return: both of shape ``(rows, batch)``
        """
        if (batch, dtype) not in self._buffers:
            if len(self._buffers) == MAX_BUFFERS:
                self._buffers.pop(next(iter(self._buffers)))
            new = partial(torch.empty, (self.rows, batch), dtype=dtype)
            self._buffers[batch, dtype] = (new(), new())
        return self._buffers[batch, dtype]


class Pass(NamedTuple):
    """What a forward pass leaves for the gradients.

    :param x: inputs, shape ``(n, batch)``, the same for every network, or ``(networks, n, batch)``
    :param outputs: of all layers, shape ``(rows, batch)``; until the next batch of the same size
    """

    x: Tensor
    outputs: Tensor


def is_available(weights: Tensor) -> bool:
    """Whether the kernels can serve: on the CPU, in float32 or float64, with a compiler at hand."""
    return weights.device.type == "cpu" and weights.is_contiguous() and _kernels(weights.dtype) is not None


def forward(shape: Shape, weights: Tensor, x: Tensor) -> tuple[Tensor, Pass]:
    """
    :param shape: of the networks
    :param weights: layer by layer the matrices of all networks, then their biases, end to end
    :param x: shape ``(batch, n)``, or ``(networks, batch, n)``; fastest where the batch is contiguous
    :return: outputs, shape ``(networks, batch, m)``, the batch contiguous; and what the gradients need. Both are
        overwritten by the next batch of the same size.
    """
    x = x.transpose(-1, -2).to(weights.dtype).contiguous()
    batch = x.shape[-1]
    outputs, _ = shape.buffers(batch, x.dtype)
    run, _ = _kernels(x.dtype)  # type: ignore[misc]
    run(*_head(shape, weights, x, outputs))
    return outputs[-shape.last :].view(shape.networks, -1, batch).mT, Pass(x, outputs)


def backward(
    shape: Shape, weights: Tensor, passed: Pass, to_output: Tensor, to_weights: Tensor | None, to_input: bool
) -> Tensor | None:
    """
    :param shape: of the networks
    :param weights: as for :func:`forward`
    :param passed: what it left
    :param to_output: the loss's gradient in the outputs, shape ``(networks, batch, m)``, of the first of the batch
    :param to_weights: where the gradient in the weights shall be written, if it shall
    :param to_input: whether that in the inputs is wanted
    :return: it, shape ``(networks, batch, n)``
    """
    x, outputs = passed
    batch, lanes = x.shape[-1], to_output.shape[1]
    _, gradients = shape.buffers(batch, x.dtype)
    gradients[-shape.last :].view(shape.networks, -1, batch)[..., :lanes].copy_(to_output.mT)
    to_x = torch.empty((shape.networks, shape.inputs, batch), dtype=x.dtype) if to_input else None
    _, run = _kernels(x.dtype)  # type: ignore[misc]
    run(*_head(shape, weights, x, outputs), lanes, gradients.data_ptr(), _pointer(to_x), _pointer(to_weights))
    return to_x[..., :lanes].mT if to_x is not None else None


def _head(shape: Shape, weights: Tensor, x: Tensor, outputs: Tensor) -> Sequence[Any]:
    apart = x.stride(0) if x.dim() == 3 else 0
    return (
        *(torch.get_num_threads(), x.shape[-1], *shape.arguments),
        *(weights.data_ptr(), x.data_ptr(), apart, outputs.data_ptr()),
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return tensor.data_ptr() if tensor is not None else None


def _kernels(dtype: torch.dtype) -> tuple[Any, Any] | None:
    return kernels(dtype, "stack", _HEAD, _HEAD + "nppp")
