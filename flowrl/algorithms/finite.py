"""Where a loss or its gradient is not a number an optimiser takes no step, and training says so."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from flowrl.diverged import Diverged


def step_if_finite(*optimizers: Optimizer, max_grad_norm: float | None = None) -> Tensor:
    """
    A step of optimisers, if the gradients of all of their parameters, taken together, are finite.

    Gradients whose squares overflow are none, either: Adam's averages of them would never recover. On a GPU nothing
    branches on a tensor's value, so that this can be recorded. There, an optimiser that is not fused steps along zero
    in their place, by which Adam's momentum still moves the parameters.

    :param optimizers: whose gradients are there
    :param max_grad_norm: to which each optimiser's gradients are clipped; None: they are not
    :return: whether they were finite, a scalar
    """
    groups = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    finite = are_finite(parameter for group in groups for parameter in group)
    on_the_cpu = finite.device.type == "cpu"
    if on_the_cpu and not finite:
        return finite
    for optimizer, group in zip(optimizers, groups):
        with nullcontext() if on_the_cpu else _left_out_unless(finite, optimizer, group):
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(group, max_grad_norm)
            optimizer.step()
    return finite


def are_finite(parameters: Iterable[Tensor]) -> Tensor:
    """
    :param parameters: of optimisers
    :return: whether the square of their gradients' norm is finite, a scalar
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).square().isfinite()


@contextmanager
def _left_out_unless(finite: Tensor, optimizer: Any, parameters: list[Tensor]) -> Iterator[None]:
    """Inside, a step of a fused optimiser is left out unless that holds; of another it is one along zero."""
    if type(optimizer) in (Adam, AdamW) and all(group["fused"] for group in optimizer.param_groups):
        optimizer.found_inf = (~finite).float()
        try:
            yield
        finally:
            del optimizer.found_inf
    else:
        for gradient in (parameter.grad for parameter in parameters if parameter.grad is not None):
            gradient.masked_fill_(~finite, 0.0)
        yield


def marked(loss: Tensor, finite: Tensor) -> Tensor:
    """
    :param loss: of an update
    :param finite: whether its gradient was finite, a scalar
    :return: the loss, without a gradient; NaN where that was not finite
    """
    return loss.detach().masked_fill(~finite, torch.nan)


def check_losses(losses: Mapping[str, float], step: int) -> None:
    """
    :param losses: of an update, by name
    :param step: of training
    :raises flowrl.Diverged: if one is NaN or infinite
    """
    wrong = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise Diverged(
            f"A loss or its gradient is not finite at step {step} ({', '.join(wrong)}). Either an observation or a "
            "reward is NaN or huge (check the environment, wrap it in stable_baselines3.common.vec_env.VecCheckNan) or "
            "training has diverged (lower learning_rate, normalise observations and rewards with VecNormalize); go on "
            "from the last checkpoint."
        )
