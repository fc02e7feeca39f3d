"""The C kernel of a whole update of SAC: what it is called with, and the memory that it works in."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowrl.kernels.adam import AdamJob
from flowrl.kernels.flow import FlowJob, Program
from flowrl.kernels.library import fields, kernel, pointers
from flowrl.kernels.stack import Stack, StackJob


class SacJob(ctypes.Structure):
    """`Sac` of sac.c."""

    _fields_ = [
        *fields("nnn", "n features actions"),
        *fields("pppppppd", "states next_states taken rewards dones noise discounts discount"),
        ("actor", StackJob),
        ("flow", FlowJob),
        ("critics", StackJob),
        ("targets", StackJob),
        *fields("pdd", "log_alpha alpha target_entropy"),
        ("of_actor", AdamJob),
        ("of_critics", AdamJob),
        ("of_temperature", AdamJob),
        *fields("ppppp", "both pairs to_pairs goal to_log_prob"),
        ("losses", ctypes.c_double * 4),
    ]


class SacUpdate:
    """
    Updates of one batch size.

    :param actor: from features to the flow's parameters
    :param program: the flow's steps
    :param weights: of the networks of its couplings
    :param weight_gradients: where those in them shall be written
    :param critics: from features and actions to values
    :param targets: alike
    :param size: of a batch
    """

    def __init__(
        self,
        actor: Stack,
        program: Program,
        weights: Sequence[Tensor],
        weight_gradients: Sequence[Tensor],
        critics: Stack,
        targets: Stack,
        size: int,
    ):
        features, actions = actor.inputs, critics.inputs - actor.inputs
        self.dtype = actor.dtype

        acting, judging, aiming = actor.batch(2 * size), critics.batch(size), targets.batch(size)
        arrays = pointers(weights), pointers(weight_gradients)
        self._kept: list[Any] = [program, weights, weight_gradients, arrays, actor, critics, targets]
        self._kept += [acting, judging, aiming]

        def new(*shape: int) -> int:
            """Where memory of this update's own begins."""
            self._kept.append(torch.empty(shape, dtype=self.dtype, device="cpu"))
            return self._kept[-1].data_ptr()

        self.job = job = SacJob(n=size, features=features, actions=actions)
        job.both, job.pairs = new(features, 2 * size), new(features + actions, size)
        job.to_pairs = new(critics.networks, features + actions, size)
        job.goal, job.to_log_prob = new(size), new(size)
        job.actor, job.critics, job.targets = acting.job, judging.job, aiming.job
        job.actor.x, job.critics.x, job.targets.x = job.both, job.pairs, job.pairs
        job.flow = FlowJob(
            *(2 * size, 2 * size, actions, *program.head, False),
            parameters=acting.outputs[-actor.last :].data_ptr(),
            weights=ctypes.addressof(arrays[0]),
            states=new(len(program.steps) + 1, actions, 2 * size),
            outputs=new(program.outputs, 2 * size),
            density=True,
            ladj=new(2 * size),
            to_ladj=job.to_log_prob,
            to_state=new(actions, 2 * size),
            scratch=new(max(actions, 2), 2 * size),
            gradients=new(program.outputs, 2 * size),
            to_parameters=acting.gradients[-actor.last :].data_ptr(),
            to_weights=ctypes.addressof(arrays[1]),
        )

    def run(self, batch: Sequence[Tensor | None]) -> list[float]:
        """
        One update with the job's settings as they are.

        :param batch: features of the states and of the next ones, shape ``(n, features)``, actions, ``(n, d)``,
            rewards, dones, ``(n, 1)``, noise, ``(2 n, d)``, and discounts, ``(n, 1)``, or None
        :return: the temperature's loss, the temperature, the critics' loss, the actor's
        """
        job = self.job
        tensors = [tensor.to(self.dtype).contiguous() if tensor is not None else None for tensor in batch]
        job.states, job.next_states, job.taken, job.rewards, job.dones, job.noise, job.discounts = (
            tensor.data_ptr() if tensor is not None else None for tensor in tensors
        )
        kernel(self.dtype, "sac_update", "np")(torch.get_num_threads(), ctypes.addressof(job))  # type: ignore[misc]
        return list(job.losses)
