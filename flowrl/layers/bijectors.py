"""Elementwise bijectors: what a coupling or autoregressive layer applies to the features that it moves."""

from dataclasses import dataclass

from torch import Tensor

from flowrl.transforms import Affine, RationalQuadraticSpline, Transform, bounded

LOG_SCALE_LIMIT = 3.0  # one affine layer stretches by at most e^3


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


Bijector = AffineBijector | SplineBijector
