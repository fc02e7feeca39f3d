"""Mode ``transforms``: a pass through flowrl's flows and through the spline couplings of other libraries."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from experiments.benchmarks.densities import (
    CONTEXT,
    Density,
    Loss,
    flowrl_density,
    log_prob_loss,
    of_distributions,
    passes,
    sample_loss,
)
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.peers import load
from experiments.benchmarks.turns import MILLISECONDS, Case, Contender

BATCH, FEATURES = 256, 6
RECIPES = ("nsf", "triangular", "realnvp", "maf")
REFERENCE = "flowrl nsf"

# The peers have the size of flowrl's nsf: two spline couplings whose networks see half of x and the whole context.
COUPLINGS, BINS, BOUND, HIDDEN = 2, 8, 4.0, (64, 64)


def cases(options: Options) -> list[Case]:
    """
    Sampling with log-prob, and the log-prob of given points.

    :param options: the command line
    :return: the cases
    """
    return [
        Case("a sample and its log-prob", MILLISECONDS, contenders(sample_loss, options)),
        Case("log-prob of given points", MILLISECONDS, contenders(log_prob_loss, options)),
    ]


def contenders(loss: Loss, options: Options) -> list[Contender]:
    """
    All flows.

    :param loss: of one pass
    :param options: the command line
    :return: the contenders
    """
    builders: dict[str, Callable[[], Density]] = {
        f"flowrl {recipe}": partial(flowrl_density, recipe, FEATURES) for recipe in RECIPES
    }
    builders |= {
        "zuko NSF, 2 passes": zuko_nsf,
        "zuko spline coupling": zuko_coupling,
        "zuko spline coupling, inverted": partial(zuko_coupling, inverted=True),
        "normflows spline coupling": normflows_coupling,
        "nflows spline coupling": nflows_coupling,
    }
    return [
        Contender(name, partial(passes, build, loss, BATCH, FEATURES, options.amount, options.device), REFERENCE)
        for name, build in builders.items()
    ]


def zuko_nsf() -> Density:
    """Zuko's own recipe: a masked network that moves all features in two passes, bound 5."""
    zuko = load("zuko")
    return of_distributions(
        zuko.flows.NSF(FEATURES, CONTEXT, bins=BINS, transforms=COUPLINGS, passes=2, hidden_features=HIDDEN)
    )


def zuko_coupling(inverted: bool = False) -> Density:
    """
    Zuko's couplings, with splines.

    :param inverted: whether noise goes through them forwards, which zuko computes faster, and data backwards
    :return: the density
    """
    zuko = load("zuko")
    flow = zuko.flows.NICE(
        FEATURES,
        CONTEXT,
        transforms=COUPLINGS,
        univariate=partial(zuko.transforms.MonotonicRQSTransform, bound=BOUND),
        shapes=[(BINS,), (BINS,), (BINS - 1,)],
        hidden_features=HIDDEN,
    )
    if inverted:
        flow = zuko.flows.Flow([layer.inv for layer in flow.transform.transforms], flow.base)
    return of_distributions(flow)


def normflows_coupling() -> Density:
    """Normflows' coupling, noise to data."""
    normflows = load("normflows")
    coupling = normflows.flows.neural_spline.coupling.PiecewiseRationalQuadraticCoupling
    layers = [coupling(mask, ConditionalMLP, num_bins=BINS, tails="linear", tail_bound=BOUND) for mask in masks()]
    flow = normflows.ConditionalNormalizingFlow(normflows.distributions.DiagGaussian(FEATURES, trainable=False), layers)
    return Density(
        flow,
        lambda context: flow.sample(len(context), context=context),
        lambda x, context: flow.log_prob(x, context=context),
    )


def nflows_coupling() -> Density:
    """Nflows' coupling, data to noise as in all of its flows."""
    transforms, flows = load("nflows.transforms"), load("nflows.flows")
    layers = [
        transforms.PiecewiseRationalQuadraticCouplingTransform(
            mask, ConditionalMLP, num_bins=BINS, tails="linear", tail_bound=BOUND
        )
        for mask in masks()
    ]
    base = load("nflows.distributions").StandardNormal((FEATURES,))
    flow = flows.Flow(transforms.CompositeTransform(layers), base)

    def sample(context: Tensor) -> tuple[Tensor, Tensor]:
        x, log_prob = flow.sample_and_log_prob(1, context)  # (batch, 1, d), (batch, 1)
        return x.squeeze(1), log_prob.squeeze(1)

    return Density(flow, sample, lambda x, context: flow.log_prob(x, context))


def masks() -> list[Tensor]:
    """Which features each coupling moves: every other one, then the rest."""
    return [(torch.arange(FEATURES) % 2 == i % 2).int() for i in range(COUPLINGS)]


class ConditionalMLP(nn.Module):
    """
    The network of flowrl's couplings, in the form that normflows and nflows ask for.

    :param features: of x that it sees
    :param outputs: how many parameters the splines have
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.hidden_features = HIDDEN[-1]  # by whose root normflows and nflows divide
        first, second = HIDDEN
        self.network = nn.Sequential(
            nn.Linear(features + CONTEXT, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, outputs),
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.network(torch.cat((x, context), dim=-1))


TITLE = f"Forward and backward through a flow (batch {BATCH}, {FEATURES} dimensions, context of {CONTEXT})"
MODE = Mode("transforms", TITLE, cases, amount=50, quick_amount=1)
