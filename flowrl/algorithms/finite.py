"""What every update does where a loss or its gradient is not a number: it keeps the networks, and says so."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer


def drop_unless_finite(parameters: Iterable[Tensor]) -> Tensor:
    """
    Set gradients to zero if, taken together, they are not finite: a step along them would lose every parameter.

    Those whose squares overflow are dropped, too, since Adam's averages of them would never recover. Nothing branches
    on a tensor's value.

    :param parameters: of one optimiser
    :return: whether the gradients were finite, a scalar
    """
    parameters = list(parameters)
    finite = are_finite(parameters)
    wrong = ~finite
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(wrong, 0.0)
    return finite


def are_finite(parameters: Iterable[Tensor]) -> Tensor:
    """
    :param parameters: of one optimiser
    :return: whether the square of their gradients' norm is finite, a scalar
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).square().isfinite()


def step_if_finite(optimizer: Optimizer) -> Tensor:
    """
    A step of an optimiser, if the gradients of all of its parameters are finite.

    :param optimizer: whose gradients are there
    :return: whether they were, a scalar
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if type(optimizer) not in (Adam, AdamW) or not all(group["fused"] for group in optimizer.param_groups):
        finite = drop_unless_finite(parameters)
        optimizer.step()
        return finite
    finite = are_finite(parameters)
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # by which a fused step is left out
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
    return finite


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
    :raises ValueError: if one is NaN or infinite
    """
    wrong = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise ValueError(
            f"A loss or its gradient is not finite at step {step} ({', '.join(wrong)}). Either an observation or a "
            "reward is NaN or huge (check the environment, wrap it in stable_baselines3.common.vec_env.VecCheckNan) or "
            "training has diverged (lower learning_rate, normalise observations and rewards with VecNormalize); go on "
            "from the last checkpoint."
        )
