"""What every update does where a loss or its gradient is not a number: it keeps the networks, and says so."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def drop_unless_finite(parameters: Iterable[Tensor]) -> Tensor:
    """
    Set gradients to zero if, taken together, they are not finite: a step along them would lose every parameter.

    Those whose squares overflow are dropped, too, since Adam's averages of them would never recover. Nothing branches
    on a tensor's value.

    :param parameters: of one optimiser
    :return: whether the gradients were finite, a scalar
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    finite = torch.nn.utils.get_total_norm(gradients).square().isfinite()
    for gradient in gradients:
        gradient.masked_fill_(~finite, 0.0)
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
