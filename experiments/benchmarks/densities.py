"""Conditional densities of this library and of others behind one pair of functions, and passes through them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import flowrl
from experiments.benchmarks.turns import Work

CONTEXT = 256  # size of the context: the features of SAC's networks
PERTURBATION = 0.05  # so that no flow is the identity


@dataclass
class Density:
    """
    A conditional density.

    :param module: with all its parameters
    :param sample: from a context to a sample and its log-prob
    :param log_prob: of a value given a context
    """

    module: nn.Module
    sample: Callable[[Tensor], tuple[Tensor, Tensor]]
    log_prob: Callable[[Tensor, Tensor], Tensor]


def of_distributions(module: nn.Module) -> Density:
    """
    A density from a module that returns a distribution: flowrl's form, and zuko's.

    :param module: from a context to a distribution
    :return: the density
    """
    return Density(
        module,
        lambda context: module(context).rsample_and_log_prob(),
        lambda x, context: module(context).log_prob(x),
    )


def flowrl_density(flow: str, features: int, **options: Any) -> Density:
    """
    One of this library's recipes.

    :param flow: its name
    :param features: d
    :param options: of the recipe
    :return: the density
    """
    return of_distributions(flowrl.Flow(features, CONTEXT, flow, **options))


Loss = Callable[[Density, Tensor, Tensor], Tensor]
"""From a density, contexts and points to a number."""


def sample_loss(density: Density, context: Tensor, points: Tensor) -> Tensor:
    """
    A loss of one sample in each context and its log-prob, as SAC's actor has.

    :param density: to sample from
    :param context: shape ``(batch, context)``
    :param points: not used
    :return: a number
    """
    x, log_prob = density.sample(context)
    return log_prob.mean() + x.square().mean()


def log_prob_loss(density: Density, context: Tensor, points: Tensor) -> Tensor:
    """
    A loss of the log-prob of given points, as PPO has.

    :param density: to score with
    :param context: shape ``(batch, context)``
    :param points: shape ``(batch, d)``
    :return: a number
    """
    return density.log_prob(points, context).mean()


def passes(build: Callable[[], Density], loss: Loss, batch: int, features: int, count: int, device: str) -> Work:
    """
    Forward and backward passes, to the parameters and to the context.

    :param build: makes the density
    :param loss: of one pass
    :param batch: contexts in a pass
    :param features: d
    :param count: passes in a turn
    :param device: ``cpu`` or ``cuda``
    :return: the work
    """
    torch.manual_seed(0)
    context = torch.randn(batch, CONTEXT).to(device).requires_grad_()
    points = torch.randn(batch, features).to(device)
    density = build()
    density.module.to(device)
    with torch.no_grad():
        for parameter in density.module.parameters():
            parameter.add_(PERTURBATION * torch.randn_like(parameter))

    parameters = [*density.module.parameters(), context]

    def turn() -> float:
        for _ in range(count):
            for parameter in parameters:  # as an optimiser does it; a module would first be searched for them
                parameter.grad = None
            loss(density, context, points).backward()
        return count

    return Work(turn, sum(parameter.numel() for parameter in density.module.parameters()))
