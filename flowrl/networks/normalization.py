"""Running statistics that a model learns beside its weights, and saves with them: of observations and of returns."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class RunningNormalization(nn.Module):
    """
    Observations less their mean, over their deviation, of all that were ever observed; clipped, since a feature that
    has been almost constant may move.

    The statistics are updated as by Chan, Golub and LeVeque 1979, in float64, and by :meth:`observe` alone. Before the
    second observation it clips, and does nothing else.

    :param shape: of an observation
    :param clip: of what it gives, in deviations
    """

    mean: Tensor
    deviation_squares: Tensor
    count: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("deviation_squares", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # What they come to, in the networks' precision
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """
        Count some observations in.

        :param x: shape ``(n, *shape)``, n may be 0
        :raises ValueError: if one is NaN or infinite, which no mean would ever forget
        """
        if not len(x):  # whose mean would be NaN
            return
        if not x.isfinite().all():
            raise ValueError(
                "An observation is NaN or infinite, and so would be every one that is normalised after it: check the "
                "environment, or wrap it in stable_baselines3.common.vec_env.VecCheckNan to see where it comes from."
            )
        x = x.to(self.mean)
        n, mean = len(x), x.mean(0)
        total, delta = self.count + n, mean - self.mean
        self.deviation_squares += (x - mean).square().sum(0) + delta.square() * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count += n
        if self.count < 2:
            return
        variance = self.deviation_squares / self.count
        self.shift.copy_(self.mean)
        # A feature that never moved has no deviation to be measured in.
        self.scale.copy_(torch.where(variance > EPSILON, variance, 1.0).rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: of a floating type, shape ``(*, *shape)``
        :return: normalised, of the same shape and type
        """
        return ((x - self.shift.to(x)) * self.scale.to(x)).clamp(-self.clip, self.clip)


class DictNormalization(nn.Module):
    """
    Some entries of dictionaries of observations normalised, each by its own running statistics.

    :param shapes: of these entries, by key; there is at least one
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__()
        self.keys = tuple(shapes)  # which may be what no module can be named
        self.each = nn.ModuleList(RunningNormalization(shape) for shape in shapes.values())

    @property
    def of(self) -> dict[str, nn.Module]:
        """Each one's statistics."""
        return dict(zip(self.keys, self.each, strict=True))

    def observe(self, x: Mapping[str, Tensor]) -> None:
        """
        Count some observations in.

        :param x: of each key, shape ``(n, *shape)``
        :raises ValueError: if one is NaN or infinite
        """
        for key, normalization in self.of.items():
            normalization.observe(x[key])  # type: ignore[operator]

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        :param x: of each key, shape ``(*, *shape)``, and other entries
        :return: these normalised, the others as they are
        """
        of = self.of
        return {key: of[key](value) if key in of else value for key, value in x.items()}

    @property
    def count(self) -> Tensor:
        """How many observations were counted in."""
        return self.each[0].count  # type: ignore[return-value]


class ReturnScale(nn.Module):
    r"""
    By what rewards are divided so that returns fill an interval: the running deviation of the discounted return, but
    never so little that the largest return seen would leave the interval (Lee et al. 2025, SimbaV2, eq. 16 to 18).

    .. math:: G_t = \gamma (1 - d_{t-1}) G_{t-1} + r_t, \qquad
              \sigma = \max(\sqrt{Var[G] + \epsilon}, \max |G| / B)

    :param bound: B, half the interval
    """

    statistics: Tensor
    """Count, mean, sum of squared deviations and largest size of G, shape ``(4,)``, float64."""

    def __init__(self, bound: float):
        super().__init__()
        self.bound = bound
        self.register_buffer("statistics", torch.zeros(4, dtype=torch.float64))
        self.running: list[float] = []  # G of each environment

    def observe(self, rewards: Sequence[float], dones: Sequence[bool], gamma: float) -> None:
        """
        Count a step of each environment in.

        :param rewards: of each
        :param dones: whether each one's episode has ended
        :param gamma: discount
        :raises ValueError: if a reward is NaN or infinite
        """
        if len(self.running) != len(rewards):
            self.running = [0.0] * len(rewards)
        count, mean, squares, largest = self.statistics.tolist()
        for i, (reward, done) in enumerate(zip(rewards, dones, strict=True)):
            if not math.isfinite(reward):
                raise ValueError(f"A reward is {reward}: check the environment, since its return scales all others.")
            value = gamma * self.running[i] + float(reward)
            self.running[i] = 0.0 if done else value
            count += 1
            delta = value - mean
            mean += delta / count
            squares += delta * (value - mean)
            largest = max(largest, abs(value))
        self.statistics.copy_(torch.tensor((count, mean, squares, largest), dtype=torch.float64))

    @property
    def scale(self) -> float:
        """Sigma; 1 before anything was observed."""
        count, _, squares, largest = self.statistics.tolist()
        return max(math.sqrt(squares / count + EPSILON), largest / self.bound) if count > 1 else 1.0
