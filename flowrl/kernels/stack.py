"""The C kernels of stacks of equal networks: forward, and the gradients by hand, on all of torch's threads."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.kernels.library import fields, kernels, pointers

MAX_BATCHES = 4  # sizes that a stack keeps memory for


class StackJob(ctypes.Structure):
    """`Stack` of stack.c."""

    _fields_ = fields(
        "nnnnpiippnpppp",
        "n lanes networks depth widths is_tanh active_end weights x x_apart outputs gradients to_x to_weights",
    )


class Batch(NamedTuple):
    """What a stack keeps for batches of one size, the same every time: the system takes long to hand out as much memory
    anew.

    :param outputs: of all layers of all networks, shape ``(rows, batch)``
    :param gradients: in them, alike
    :param job: what the kernels are called with, but for the inputs, and where their gradients go
    """

    outputs: Tensor
    gradients: Tensor
    job: StackJob


class Pass(NamedTuple):
    """What a forward pass leaves for the gradients, until the next batch of the same size.

    :param x: inputs, shape ``(n, batch)``, the same for every network, or ``(networks, n, batch)``
    :param batch: see :class:`Batch`
    """

    x: Tensor
    batch: Batch


class Stack:
    """
    Networks of equal shapes with ReLU or tanh between their layers, side by side.

    :param weights: of each layer the matrices of all networks, shape ``(networks, m, n)``, then their biases,
        ``(networks, m)``, all contiguous
    :param is_tanh: whether the activation is tanh; ReLU if not
    :param active_end: whether it follows the last layer too
    :param gradients: where those in the weights shall be written, alike
    """

    def __init__(self, weights: Sequence[Tensor], is_tanh: bool, active_end: bool, gradients: Sequence[Tensor] = ()):
        self.tensors = (*weights, *gradients)  # kept alive
        self.dtype = weights[0].dtype
        self.networks, _, self.inputs = weights[0].shape
        widths = [self.inputs, *(matrix.shape[1] for matrix in weights[::2])]
        self.rows = self.networks * sum(widths[1:])  # of the outputs of all layers of all networks
        self.last = self.networks * widths[-1]  # and of the last layers
        self._widths = (ctypes.c_int64 * len(widths))(*widths)
        self._pointers = pointers(weights), pointers(gradients)
        self._options = (is_tanh, active_end)
        self.batch = lru_cache(MAX_BATCHES)(self._new_batch)  # by its size

    def _new_batch(self, size: int) -> Batch:
        new = partial(torch.empty, (self.rows, size), dtype=self.dtype, device="cpu")
        outputs, gradients, job = batch = Batch(new(), new(), StackJob())
        job.n = job.lanes = size
        job.networks, job.depth, job.widths = self.networks, len(self._widths) - 1, ctypes.addressof(self._widths)
        job.is_tanh, job.active_end = self._options
        job.weights, job.to_weights = (ctypes.addressof(array) if array else None for array in self._pointers)
        job.outputs, job.gradients = outputs.data_ptr(), gradients.data_ptr()
        return batch

    def forward(self, x: Tensor) -> tuple[Tensor, Pass]:
        """
        :param x: shape ``(batch, n)``, or ``(networks, batch, n)``; fastest where the batch is contiguous
        :return: outputs, shape ``(networks, batch, m)``, the batch contiguous; and what the gradients need. Both are
            overwritten by the next batch of the same size.
        """
        x = x.transpose(-1, -2).to(self.dtype).contiguous()
        batch = self.batch(x.shape[-1])
        self._run(0, _job_of(batch, x))
        return batch.outputs[-self.last :].view(self.networks, -1, x.shape[-1]).mT, Pass(x, batch)

    def gradients(self, to_output: Tensor, passed: Pass) -> None:
        """Write those in the weights.

        :param to_output: the loss's gradient in the outputs, shape ``(networks, batch, m)``, of the first of the batch
        :param passed: what `forward` left
        """
        self._backward(to_output, passed, None)

    def input_gradient(self, to_output: Tensor, passed: Pass) -> Tensor:
        """
        :param to_output: as for :meth:`gradients`
        :param passed: what `forward` left
        :return: the loss's gradient in each network's input, shape ``(networks, batch, n)``
        """
        x, lanes = passed.x, to_output.shape[1]
        to_x = torch.empty((self.networks, self.inputs, x.shape[-1]), dtype=x.dtype, device="cpu")
        self._backward(to_output, passed, to_x)
        return to_x[..., :lanes].mT

    def _backward(self, to_output: Tensor, passed: Pass, to_x: Tensor | None) -> None:
        x, batch = passed
        lanes = to_output.shape[1]
        batch.gradients[-self.last :].view(self.networks, -1, x.shape[-1])[..., :lanes].copy_(to_output.mT)
        job = _job_of(batch, x)
        job.lanes = lanes
        if to_x is not None:
            job.to_x, job.to_weights = to_x.data_ptr(), None
        self._run(1, job)

    def _run(self, which: int, job: StackJob) -> None:
        _kernels(self.dtype)[which](torch.get_num_threads(), ctypes.addressof(job))  # type: ignore[index]


def is_available(weights: Tensor) -> bool:
    """Whether the kernels can serve: on the CPU, in float32 or float64, with a compiler at hand."""
    return weights.device.type == "cpu" and weights.is_contiguous() and _kernels(weights.dtype) is not None


def _job_of(batch: Batch, x: Tensor) -> StackJob:
    job = StackJob.from_buffer_copy(batch.job)
    job.x, job.x_apart = x.data_ptr(), x.stride(0) if x.dim() == 3 else 0
    return job


def _kernels(dtype: torch.dtype) -> tuple[Any, Any] | None:
    return kernels(dtype, "stack", "np", "np")
