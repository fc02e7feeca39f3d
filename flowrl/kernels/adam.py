"""Adam's step in C, over the tensors that torch's own optimiser holds, whose addresses are read before every call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flowrl.kernels.structures import structure

Adam = structure("Adam")
LACKING = ("amsgrad", "capturable", "differentiable", "decoupled_weight_decay")


class AdamStep:
    """
    A step of an optimiser, and of targets that follow its parameters.

    Torch may move a parameter to other memory at any time (`share_memory`, a user's `.data`), so that nothing is
    believed to be where it was.

    :param parameters: of the optimiser, in the kernel's order
    :param targets: of each parameter the one that follows it, if they do
    """

    def __init__(self, parameters: Sequence[Tensor], targets: Sequence[Tensor] = ()):
        self.parameters, self.targets = list(parameters), list(targets)
        n = len(self.parameters)
        table: Any = ctypes.c_void_p * n
        self._sizes = (ctypes.c_int64 * n)(*(parameter.numel() for parameter in parameters))
        self.values, self.gradients, self._averages, self._squares, self._steps = (table() for _ in range(5))
        self.target_values = table() if targets else None
        self.job = Adam(
            tensors=n,
            sizes=ctypes.addressof(self._sizes),
            values=ctypes.addressof(self.values),
            gradients=ctypes.addressof(self.gradients),
            averages=ctypes.addressof(self._averages),
            squares=ctypes.addressof(self._squares),
            steps=ctypes.addressof(self._steps),
        )
        self._kind = (self.parameters[0].dtype, torch.device("cpu"))
        self._seen: Any = None  # addresses and strides that were found to fit

    def fits(self, optimizer: Optimizer) -> bool:
        """
        Whether the kernel can take an optimiser's steps. Of one that has taken none, nothing is read: what torch's own
        first step makes, with the options that stand by then, is made by the first update.
        """
        if optimizer.state:
            return self.read(optimizer)
        self._seen = None
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return self._are_ours([*self.parameters, *self.targets, *gradients])

    @property
    def is_read(self) -> bool:
        """Whether :meth:`read` has found everything where the kernel can take it."""
        return self._seen is not None

    def read(self, optimizer: Optimizer) -> bool:
        """
        Take over an optimiser's settings, and where its tensors are now.

        :return: whether all of them are as the kernel needs them: of one type, contiguous, on the CPU
        """
        group, state = optimizer.param_groups[0], optimizer.state
        tensors: list[Tensor] = []
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            moments = state[parameter]
            if not moments:  # as torch's own first step makes them
                moments["step"] = torch.tensor(0.0, dtype=torch.float32)
                moments["exp_avg"], moments["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            tensors += (parameter, parameter.grad, moments["exp_avg"], moments["exp_avg_sq"], moments["step"])
        tensors += self.targets
        seen: list[Any] = [tensor.data_ptr() for tensor in tensors]
        kinds = [tensor.stride() for tensor in self.parameters]
        job, n = self.job, len(self.parameters)
        job.rate, (job.beta1, job.beta2), job.eps = group["lr"], group["betas"], group["eps"]
        job.decay, job.maximize = group["weight_decay"], group["maximize"]
        if (seen, kinds) == self._seen:
            return True
        of_each = seen[: 5 * n]
        self.values[:], self.gradients[:], self._averages[:] = of_each[::5], of_each[1::5], of_each[2::5]
        self._squares[:], self._steps[:] = of_each[3::5], of_each[4::5]
        if self.target_values is not None:
            self.target_values[:] = seen[5 * n :]
        fits = self._fit(tensors)
        self._seen = (seen, kinds) if fits else None
        return fits

    def follow(self, share: float | None) -> None:
        """
        :param share: of the distance that the targets move after the step; None: they stay
        """
        moves = share is not None and self.target_values is not None
        self.job.targets = ctypes.addressof(self.target_values) if moves else None  # type: ignore[arg-type]
        self.job.share = share or 0.0

    def _fit(self, tensors: list[Tensor]) -> bool:
        n = len(self.parameters)
        steps, others = tensors[4 : 5 * n : 5], [tensor for i, tensor in enumerate(tensors) if i >= 5 * n or i % 5 != 4]
        sizes = [tensor.numel() for tensor in others]
        expected = [size for size in self._sizes for _ in range(4)] + list(self._sizes)[: len(self.targets)]
        return (
            sizes == expected
            and self._are_ours(others)
            and all((step.dtype, step.device.type) == (torch.float32, "cpu") for step in steps)
        )

    def _are_ours(self, tensors: Sequence[Tensor]) -> bool:
        return all((tensor.dtype, tensor.device) == self._kind and tensor.is_contiguous() for tensor in tensors)


def why_not_adam(optimizer: Optimizer, parameters: Sequence[Tensor]) -> str:
    """
    Why the kernel's step is not an optimiser's; "" where it is.

    :param optimizer: the optimiser
    :param parameters: those that the kernel computes gradients of
    """
    if type(optimizer) is not torch.optim.Adam or "step" in vars(optimizer):
        return f"the optimiser is {type(optimizer).__name__}, not torch.optim.Adam"
    (group, *others) = optimizer.param_groups
    if others:
        return f"the optimiser has {len(optimizer.param_groups)} parameter groups"
    lacking = [name for name in LACKING if group.get(name)]
    if lacking:
        return f"the optimiser has {' and '.join(lacking)}, which the kernel's Adam lacks"
    if isinstance(group["lr"], Tensor):
        return "the learning rate is a tensor"
    ours = set(map(id, parameters))
    if len(ours) != len(parameters) or ours != set(map(id, group["params"])):
        return "layers share weights, or the optimiser moves others than those of the networks"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "a hook listens to the optimiser"
    for parameter in parameters:
        if not parameter.requires_grad:
            return "a parameter is frozen"
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return "a hook listens to a parameter's gradient"
    return ""
