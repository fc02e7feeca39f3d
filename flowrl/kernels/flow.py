"""Calls of the C kernel of a whole flow, networks of its couplings included: one pass each way."""

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.kernels.library import pointers, run
from flowrl.kernels.program import Program
from flowrl.kernels.structures import structure

Flow = structure("Flow")


class Saved(NamedTuple):
    """What a forward pass leaves for the gradients.

    :param rows: the parameters, shape ``(parameters, batch)``
    :param weights: of the couplings' networks
    :param states: the input and every step's output, shape ``(steps + 1, d, batch)``
    :param outputs: of all layers of all networks, shape ``(outputs, batch)``
    :param ladj: the log-determinant or log-density, shape ``(batch,)``
    """

    rows: Tensor
    weights: Sequence[Tensor]
    states: Tensor
    outputs: Tensor
    ladj: Tensor


def forward(
    program: Program, value: Tensor, rows: Tensor, weights: Sequence[Tensor], inverse: bool, density: bool
) -> Saved:
    """
    :param program: the steps
    :param value: noise, or x where ``inverse``, shape ``(batch, d)``
    :param rows: the parameters, shape ``(parameters, batch)``, contiguous
    :param weights: of the couplings' networks
    :param inverse: whether x is given and the noise sought
    :param density: whether log N(z; 0, I) - ladj, the log-density of x, shall stand in the log-determinant's place
    :return: the last of whose states is the image
    """
    batch, features = value.shape
    new = partial(torch.empty, dtype=rows.dtype, device="cpu")
    states = new((len(program.steps) + 1, features, batch))
    states[0].copy_(value.t())
    saved = Saved(rows, weights, states, new((program.outputs, batch)), new(batch))
    job, _kept = _job(program, saved, inverse, density)
    job.ladj = saved.ladj.data_ptr()
    run(rows.dtype, "flow_forward", job)
    return saved


def backward(
    program: Program,
    saved: Saved,
    to_image: Tensor | None,
    to_ladj: Tensor,
    to_weights: Sequence[Tensor],
    inverse: bool,
    density: bool,
) -> tuple[Tensor, Tensor]:
    """
    :param program: the steps
    :param saved: what :func:`forward` left
    :param to_image: the loss's gradient in the image, shape ``(batch, d)``; None for zero
    :param to_ladj: and in the log-determinant or log-density, shape ``(batch,)``
    :param to_weights: where those in the networks' weights shall be written
    :param inverse: as for :func:`forward`
    :param density: as for :func:`forward`
    :return: those in the value, shape ``(batch, d)``, and in the rows of parameters, ``(parameters, batch)``
    """
    features, batch = saved.states.shape[1:]
    new = partial(torch.empty, dtype=saved.rows.dtype, device="cpu")
    to_value = torch.zeros_like(saved.states[0]) if to_image is None else new((features, batch)).copy_(to_image.t())
    to_rows, scratch, gradients = (
        torch.empty_like(saved.rows),
        new((max(features, 2), batch)),
        torch.empty_like(saved.outputs),
    )
    to_ladj = (-to_ladj if density else to_ladj).to(saved.rows.dtype).contiguous()
    job, _kept = _job(program, saved, inverse, density)
    job.to_ladj, job.to_state = to_ladj.data_ptr(), to_value.data_ptr()
    job.scratch, job.gradients = scratch.data_ptr(), gradients.data_ptr()
    to_weight_pointers = pointers(to_weights)
    job.to_parameters, job.to_weights = to_rows.data_ptr(), ctypes.addressof(to_weight_pointers)
    run(saved.rows.dtype, "flow_backward", job)
    return to_value.t(), to_rows


def _job(program: Program, saved: Saved, inverse: bool, density: bool) -> tuple[Any, Any]:
    """What both kernels are called with; and what it points to and must stay alive."""
    _, features, batch = saved.states.shape
    weights = pointers(saved.weights)
    job = Flow(
        n=batch,
        lanes=batch,
        features=features,
        inverse=inverse,
        density=density,
        parameters=saved.rows.data_ptr(),
        weights=ctypes.addressof(weights),
        states=saved.states.data_ptr(),
        outputs=saved.outputs.data_ptr(),
        **program.fields(),
    )
    return job, weights


def flow_job(program: Program, size: int, features: int, new: Callable[..., int]) -> Any:
    """
    A C `Flow` for batches of a size, with memory for its states, outputs and the gradients in them.

    :param program: its steps
    :param size: of the batch
    :param features: d
    :param new: where new memory of a shape begins
    """
    return Flow(
        n=size,
        lanes=size,
        features=features,
        density=True,
        states=new(len(program.steps) + 1, features, size),
        outputs=new(program.outputs, size),
        ladj=new(size),
        to_state=new(features, size),
        scratch=new(max(features, 2), size),
        gradients=new(program.outputs, size),
        **program.fields(),
    )
