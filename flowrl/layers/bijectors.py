"""Elementwise bijectors: what a coupling or autoregressive layer applies to the features that it moves."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.transforms import Affine, RationalQuadraticSpline, Sigmoidal, Transform, bounded

LOG_SCALE_LIMIT = 3.0  # one affine layer stretches by at most e^3
GATE_BIAS = 2.0  # an open gate at the start, so that a layer remembers its input (Kingma et al. 2016, section 4)
GATE_LIMIT = GATE_BIAS + 3.0  # keeps the gate above sigmoid(-3), hence the slope above 0.05
OFFSET_LIMIT = 12.0  # a sigmoidal map squeezes by at most e^15, between modes; its inverse stretches as much


@dataclass(frozen=True)
class AffineBijector:
    """Shift and scale of each feature."""

    parameters_per_feature: int = 2

    def __call__(self, raw: Tensor) -> Transform:
        """
        :param raw: unconstrained parameters, shape ``(*, d, 2)``; zeros are the identity
        """
        shift, log_scale = raw.unbind(-1)
        return Affine(shift, bounded(log_scale, LOG_SCALE_LIMIT))


@dataclass(frozen=True)
class SplineBijector:
    """Monotonic rational-quadratic spline of each feature on [-bound, bound]."""

    bins: int = 8
    bound: float = 4.0

    def __post_init__(self) -> None:
        if self.bins < 2 or self.bound <= 0:
            raise ValueError(f"A spline needs bins >= 2 and bound > 0, got bins={self.bins}, bound={self.bound}.")

    @property
    def parameters_per_feature(self) -> int:
        return 3 * self.bins - 1

    def __call__(self, raw: Tensor) -> Transform:
        """
        :param raw: unconstrained parameters, shape ``(*, d, 3 bins - 1)``; zeros are the identity
        """
        return RationalQuadraticSpline(raw, self.bound)


@dataclass(frozen=True)
class GatedBijector:
    r"""The update of an LSTM's memory, which a gate makes remember its input or forget it for a new value.

    :math:`y = \left(\sigma(s + b) \, x + (1 - \sigma(s + b)) \, m\right) / \sigma(b)`: the numerically stable form of
    inverse autoregressive flow (Kingma et al. 2016, eq. 13 and 14), in units of its initial gate, which make zero
    parameters the identity, and yet m is trained from the first step on. Its slope is in (0.05, 1.14): a layer
    contracts at will and hardly expands.
    """

    parameters_per_feature: int = 2

    def __call__(self, raw: Tensor) -> Transform:
        """
        :param raw: unconstrained parameters m and s, shape ``(*, d, 2)``; zeros are the identity
        """
        new, s = raw.unbind(-1)
        s = GATE_BIAS + bounded(s, GATE_LIMIT)
        initial_gate = 1 / (1 + math.exp(-GATE_BIAS))
        return Affine(torch.sigmoid(-s) * new / initial_gate, F.logsigmoid(s) - math.log(initial_gate))


@dataclass(frozen=True)
class SigmoidalBijector:
    """Logit of a mixture of sigmoids of each feature: a deep sigmoidal flow's layer, several modes, no bound."""

    units: int = 8

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"A sigmoidal bijector needs units >= 1, got units={self.units}.")

    @property
    def parameters_per_feature(self) -> int:
        return 3 * self.units

    def __call__(self, raw: Tensor) -> Transform:
        """
        :param raw: unconstrained log-slopes, offsets and log-weights, shape ``(*, d, 3 units)``; zeros are the identity
        """
        # At the identity all units are equal and so are their gradients. Each takes steps of its own length, lest they
        # stay equal for ever.
        pace = torch.linspace(0.5, 1.5, self.units, dtype=raw.dtype, device=raw.device)
        log_slope, offset, log_weight = (raw.unflatten(-1, (3, self.units)) * pace).unbind(-2)
        return Sigmoidal(bounded(log_slope, LOG_SCALE_LIMIT), bounded(offset, OFFSET_LIMIT), log_weight.log_softmax(-1))


Bijector = AffineBijector | GatedBijector | SigmoidalBijector | SplineBijector
