"""Two-dimensional targets, all with exact samples and exact log-density."""

from experiments.tutorial.targets.blurred import EightGaussians, Rings, TwoMoons, TwoSpirals
from experiments.tutorial.targets.checkerboard import Checkerboard
from experiments.tutorial.targets.energies import Energy, u1, u2, u3, u4
from experiments.tutorial.targets.pinwheel import Pinwheel
from experiments.tutorial.targets.target import Target

SAMPLED: dict[str, Target] = {
    "two moons": TwoMoons(),
    "eight Gaussians": EightGaussians(),
    "checkerboard": Checkerboard(),
    "pinwheel": Pinwheel(),
    "two spirals": TwoSpirals(),
    "rings": Rings(),
}
"""What flows are fitted to by maximum likelihood, from samples."""

ENERGIES: dict[str, Target] = {"U1": Energy(u1), "U2": Energy(u2), "U3": Energy(u3), "U4": Energy(u4)}
"""What flows are fitted to by reverse KL, from the log-density."""

TARGETS = SAMPLED | ENERGIES

__all__ = ["ENERGIES", "SAMPLED", "TARGETS", "Target"]
