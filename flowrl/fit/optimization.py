"""What both kinds of fit share: where and with which random numbers a flow is trained, and its steps."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.options import whole

# A guard against rare samples. At 1 splines end 0.07 to 0.5 nats better on heavy tails, but annealed variational fits
# 0.05 to 0.3 nats worse; without a bound splines end up to 0.15 nats worse on heavy tails.
MAX_GRADIENT_NORM = 10.0


@contextmanager
def prepared(flow: nn.Module, device: Any, seed: int | None) -> Iterator[Tensor]:
    """
    Inside, the flow is on its device, and torch's random numbers start at the seed; after it, the modules are back in
    their train or eval modes and the random numbers where they were (where there is a seed).

    :param device: None: where the flow is
    :param seed: None: go on with torch's random numbers
    :return: a parameter of the flow, which has its dtype and device
    """
    parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f"flow must have parameters to train, got {type(flow).__name__} with none.")
    if device is not None:
        flow.to(device)
    like = parameters[0]
    modes = {module: module.training for module in flow.modules()}
    cuda = [like.device] if like.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda, enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
                for one in cuda:
                    with torch.cuda.device(one):
                        torch.cuda.manual_seed(seed)
            yield like
    finally:
        for module, mode in modes.items():
            module.training = mode


# The learning rate is constant for half of the steps: decaying from the start, fits of 1,000 steps ended 0.01 to 0.7
# nats short of it in eight of nine measured cases; never decaying, splines ended 0.01 nats short at a high rate.


class Optimization:
    """Adam, its learning rate constant for half of the steps and then decaying to zero along a cosine, with a bound on
    the gradient's norm; remembers the best weights.

    :param flow: what is trained
    :param learning_rate: Adam's in the first half
    :param steps: until it is zero
    """

    def __init__(self, flow: nn.Module, learning_rate: float, steps: int):
        self.flow = flow
        self.parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * max(0.0, 2 * step / steps - 1))
        )
        self.best, self.best_step = -math.inf, 0
        self.remember(-math.inf, 0)

    def step(self, loss: Tensor) -> None:
        """
        One step down the loss.

        :raises FloatingPointError: if the loss or its gradient is not finite; the weights are those before the step
        """
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        if not (loss.detach() + norm).isfinite():
            raise FloatingPointError(f"the loss is {loss.item():g}, the norm of its gradient {norm.item():g}")
        self.optimizer.step()
        self.schedule.step()

    def remember(self, score: float, step: int) -> None:
        """Keep a copy of the weights, their score and when they had it."""
        self.best, self.best_step = score, step
        self.weights = {name: value.detach().clone() for name, value in self.flow.state_dict().items()}

    def restore(self) -> None:
        """Put the weights that were kept back in place, and leave no gradients."""
        self.flow.load_state_dict(self.weights)
        self.optimizer.zero_grad()


def check_positive(learning_rate: Any, **counts: Any) -> None:
    """:raises ValueError: for a rate that is no number above zero, or the first count that is no whole one"""
    if not (isinstance(learning_rate, Real) and 0 < float(learning_rate) < math.inf):
        raise ValueError(f"learning_rate must be a number above 0, got {learning_rate!r}.")
    for name, count in counts.items():
        whole(name, count, 1)
