"""Fits of flows to targets, measured against the truth, each in a process of its own."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

from experiments.reports.results import Row
from experiments.tutorial.flows import (
    BATCH_SIZE,
    FLOWS,
    HELD_OUT_ROWS,
    TRAINING_ROWS,
    VALIDATION_ROWS,
    Recipe,
    SquashedFlow,
)
from experiments.tutorial.targets import SAMPLED, TARGETS, Target
from experiments.tutorial.targets.target import midpoints
from flowrl.fit import fit_density, fit_variational

ROWS_AT_ONCE = 4_000  # that are scored together
GRID, MARGIN = 256, 1.25  # of the integral: points along each side, and the square's side in units of the target's


@dataclass(frozen=True)
class Fit:
    """
    What came of a fit.

    :param target: its name
    :param flow: its name
    :param row: of the table
    :param module: the fitted flow
    """

    target: str
    flow: str
    row: Row
    module: nn.Module

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """The fitted log-density, ``(n, 2) -> (n,)``."""
        if not isinstance(self.module, SquashedFlow):
            return self.module().log_prob(x)
        reach = TARGETS[self.target].reach
        return self.module().log_prob(x / reach) - 2 * math.log(reach)


def fit_likelihood(target: Target, recipe: Recipe, seed: int) -> tuple[Row, nn.Module]:
    """
    Fit to samples by maximum likelihood, and score samples that neither training nor validation saw.

    :param target: with samples and a known log-density
    :param recipe: of the flow
    :param seed: of samples, start and minibatches
    :return: held-out log-likelihood and its gap to the truth on the same samples, in nats, and the integral of the
        fitted density; and the flow
    """
    train, validation, held_out = _samples(target, seed)
    torch.manual_seed(seed)
    flow = recipe.build()
    fit = fit_density(
        flow,
        train,
        steps=recipe.steps,
        batch_size=BATCH_SIZE,
        learning_rate=recipe.learning_rate,
        validation=validation,
        patience=None,
        seed=seed,
    )
    log_q, log_p = _log_prob(flow, held_out), target.log_prob(held_out)
    row = dict(
        log_likelihood=round(log_q.mean().item(), 4),
        gap=round((log_p - log_q).mean().item(), 4),
        standard_error=_standard_error(log_p - log_q),
        integral=_integral(flow, MARGIN * target.reach),
    )
    return row | _circumstances(flow, recipe, seed, fit.seconds), flow


def fit_energy(target: Target, recipe: Recipe, seed: int) -> tuple[Row, nn.Module]:
    """
    Fit to the log-density by reverse KL, and measure KL(flow || target) with fresh samples of the flow.

    :param target: on the box [-reach, reach]^2
    :param recipe: of the flow, which is squashed onto [-1, 1]^2
    :param seed: of start and samples
    :return: the divergence in nats, and the integral of the fitted density; and the flow
    """

    def log_density(a: Tensor) -> Tensor:
        return target.log_prob(target.reach * a) + 2 * math.log(target.reach)

    torch.manual_seed(seed)
    flow = SquashedFlow(recipe.build(sampling=True))
    fit = fit_variational(
        flow, log_density, steps=recipe.steps, samples=BATCH_SIZE, learning_rate=recipe.learning_rate, seed=seed
    )
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        draws = [flow().rsample_and_log_prob((ROWS_AT_ONCE,)) for _ in range(HELD_OUT_ROWS // ROWS_AT_ONCE)]
        log_ratio = torch.cat([log_q - log_density(a) for a, log_q in draws])
    row = dict(
        kl=round(log_ratio.mean().item(), 4),
        standard_error=_standard_error(log_ratio),
        integral=_integral(flow, 1.0),
    )
    return row | _circumstances(flow, recipe, seed, fit.seconds), flow


def run(pairs: Iterable[tuple[str, str]], seed: int, steps: int | None, processes: int) -> Iterator[Fit]:
    """
    Fit flows to targets.

    :param pairs: names of (target, flow)
    :param seed: of every fit
    :param steps: of every fit; None: those of its recipe
    :param processes: that work at the same time, one thread each; 1: this one alone
    :return: the fits, in order, each as soon as it and those before it are there
    """
    one = partial(_fit, seed=seed, steps=steps)
    if processes == 1:
        yield from map(one, pairs)
        return
    # Spawned, not forked: a process forked from one with threads can hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(one, pairs)


def all_pairs(targets: Iterable[str], flows: Iterable[str]) -> list[tuple[str, str]]:
    """Every flow for every target."""
    return list(product(targets, flows))


def _fit(pair: tuple[str, str], seed: int, steps: int | None) -> Fit:
    target, flow = pair
    recipe = FLOWS[flow].on(target)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    fit: Callable[[Target, Recipe, int], tuple[Row, nn.Module]] = fit_likelihood if target in SAMPLED else fit_energy
    row, module = fit(TARGETS[target], recipe, seed)
    return Fit(target, flow, dict(target=target, flow=flow) | row, module)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _samples(target: Target, seed: int) -> list[Tensor]:
    """Training, validation and held-out samples, the same for every flow."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [TRAINING_ROWS, VALIDATION_ROWS, HELD_OUT_ROWS]
    return list(target.sample(sum(sizes), generator).split(sizes))


@torch.no_grad()
def _log_prob(flow: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([flow().log_prob(part) for part in x.split(ROWS_AT_ONCE)])


def _integral(flow: nn.Module, reach: float) -> float:
    """The flow's mass on [-reach, reach]^2, by the midpoint rule: 1 unless something is wrong, or is off the grid."""
    x, cell = midpoints(reach, GRID)
    return round(cell * _log_prob(flow, x.float()).exp().sum().item(), 4)


def _standard_error(values: Tensor) -> float:
    return round(values.std().item() / math.sqrt(len(values)), 4)


def _circumstances(flow: nn.Module, recipe: Recipe, seed: int, seconds: float) -> dict[str, Any]:
    return dict(
        parameters=sum(parameter.numel() for parameter in flow.parameters()),
        steps=recipe.steps,
        batch_size=BATCH_SIZE,
        learning_rate=recipe.learning_rate,
        seed=seed,
        seconds=round(seconds, 1),
    )
