"""The flows that the tutorial fits: their sizes and their budgets, for two dimensions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from experiments.benchmarks.peers import load
from experiments.tutorial.targets import ENERGIES
from flowrl import Flow
from flowrl.policies.action_distribution import ActionFlow

BATCH_SIZE = 256  # rows, or samples, a step
TRAINING_ROWS = 100_000
VALIDATION_ROWS = 4_000
HELD_OUT_ROWS = 20_000


@dataclass(frozen=True)
class Recipe:
    """
    A flow and the budget of its fits.

    :param flow: a recipe's name, or a builder
    :param steps: of the optimiser
    :param learning_rate: at the start
    :param options: of the recipe
    :param sampling: further ones for a fit that samples (reverse KL)
    :param elsewhere: other budgets: what differs, by the target's name
    """

    flow: str | Callable[..., Any]
    steps: int
    learning_rate: float
    options: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    elsewhere: dict[str, dict[str, Any]] = field(default_factory=dict)

    def on(self, target: str) -> "Recipe":
        """The recipe for a target."""
        return replace(self, **self.elsewhere.get(target, {}))

    def build(self, sampling: bool = False) -> Flow:
        """A new flow over pairs, for a fit that samples or one that scores."""
        return Flow(2, flow=self.flow, **self.options, **(self.sampling if sampling else {}))


def zuko_nsf(features: int, context: int, **options: Any) -> nn.Module:
    """Zuko's neural spline flow; importing zuko switches torch's checks of distributions off in this process."""
    return load("zuko").flows.NSF(features, context, **options)


# The energies are easy for splines; the pinwheel is hard for what is smooth.
SHORTER: dict[str, dict[str, Any]] = {name: dict(steps=1_500) for name in ENERGIES}

FLOWS: dict[str, Recipe] = {
    "nsf": Recipe("nsf", 2_000, 5e-3, dict(layers=4), elsewhere=SHORTER),
    "triangular": Recipe("triangular", 3_000, 1e-2, dict(layers=20)),
    "naf": Recipe(
        *("naf", 3_000, 2e-2, dict(layers=2, units=16)),
        sampling=dict(fast_sampling=True),
        elsewhere=dict(pinwheel=dict(steps=6_000)),
    ),
    "ffjord": Recipe(
        *("ffjord", 1_000, 1e-2, dict(layers=2, hidden=(32, 32), steps=6)),
        elsewhere=dict(
            pinwheel=dict(steps=2_400, learning_rate=2e-2, options=dict(layers=3, hidden=(32, 32), steps=6))
        ),
    ),
    "realnvp": Recipe("realnvp", 1_500, 5e-3, dict(layers=8)),
    "zuko NSF": Recipe(
        *(zuko_nsf, 2_000, 5e-3, dict(transforms=4, bins=8, hidden_features=(64, 64))),
        elsewhere=SHORTER,
    ),
}


class SquashedFlow(nn.Module):
    """
    A flow squashed by tanh onto [-1, 1]^d, as a policy squashes its actions: for a target on a box.

    :param flow: over R^d
    """

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(self) -> ActionFlow:
        return ActionFlow(self.flow(), squash=True, pre_squash=False)
