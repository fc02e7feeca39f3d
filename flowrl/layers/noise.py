"""The noise layer: a step of a Markov chain between two bijections, and the learned kernel that goes the way back."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowrl.layers.bijectors import LOG_SCALE_LIMIT
from flowrl.layers.layer import Layer
from flowrl.transforms import bounded

MIN_LOG_STD = -4.0  # e^-4, and e^-5 at the very least: float32 must still tell y from its mean


class GaussianNoise(Layer):
    r"""Adds noise to a feature and takes as much of its own variance away: N(0, I) stays what it is.

    .. math:: q(y \mid w) = N(y; \rho w, \sigma^2 I), \quad \rho = \sqrt{1 - \sigma^2}, \quad 0 < \sigma < 1

    with a sigma for each feature, which the context gives. This is a step of the Ornstein-Uhlenbeck process: at sigma
    = 0 nothing happens, at sigma = 1 the past is forgotten. What this layer leaves to do (a shift, a scale), the
    bijections around it do.

    Where the density of a result is bounded from below, one needs a kernel that goes the way back. Here it is

    .. math:: r(w \mid y) = N\left(w; \rho y + \sigma^2 m, \; (\sigma e^{\sigma^2 l})^2 I\right)

    with m and l from a small network of y and the context, zero at the start. On N(0, I) the process is reversible, so
    that r is exact at the start. Elsewhere the mean of w given y is, by Tweedie's formula (Efron 2011),
    :math:`\rho y + \sigma^2 (y + \nabla \log p(y)) / \rho`, p being the density of y, which is why m has the factor
    sigma^2; and as sigma goes to zero r becomes exact, whatever the network says.

    It is no transform, and has no inverse: only :class:`flowrl.flows.path.PathFlow` takes it. Its slice of the
    context map holds d parameters of sigma, then the context of the network's hidden layer.

    :param features: d
    :param std: sigma at the start, in every context; in (0, 1). Below e^-4 = 0.018 it comes out larger, at least e^-5
    :param hidden: width of the backward kernel's network
    """

    def __init__(self, features: int, std: float, hidden: int = 32):
        super().__init__()
        self.features, self.std = features, std
        self.context_size = features + hidden
        # The backward kernel's network; the first layer's bias is the context's
        self.hidden_layer = nn.Linear(features, hidden, bias=False)
        self.output_layer = nn.Linear(hidden, 2 * features)
        nn.init.zeros_(self.output_layer.weight)
        nn.init.zeros_(self.output_layer.bias)

    @torch.no_grad()
    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """sigma as asked for; the backward kernel's rows keep the linear map's own start."""
        weight[: self.features] = 0.0
        bias[: self.features] = 0.5 * math.log(self.std**2 / (1 - self.std**2))

    def forward(self, parameters: Tensor) -> "NoiseStep":  # type: ignore[override]
        """
        :param parameters: the layer's slice of the context map, shape ``(*batch, context_size)``
        :return: the kernels with these parameters
        """
        raw, context = parameters.split([self.features, self.context_size - self.features], dim=-1)
        raw = MIN_LOG_STD + _smooth_ramp(raw - MIN_LOG_STD)
        log_std, log_decay = 0.5 * F.logsigmoid(2 * raw), 0.5 * F.logsigmoid(-2 * raw)
        return NoiseStep(log_std, log_decay.exp(), context, self.hidden_layer, self.output_layer)


class NoiseStep(NamedTuple):
    """The two kernels of a noise layer in given contexts.

    :param log_std: log sigma, shape ``(*batch, d)``
    :param decay: rho, shape ``(*batch, d)``
    :param context: of the backward kernel's hidden layer, shape ``(*batch, hidden)``
    :param hidden_layer: of its network
    :param output_layer: the same network's
    """

    log_std: Tensor
    decay: Tensor
    context: Tensor
    hidden_layer: nn.Linear
    output_layer: nn.Linear

    def sample(self, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param w: where the path is, shape ``(*, d)``
        :param noise: standard normal, shape ``(*, d)``
        :return: y, shape ``(*, d)``, and log q(y | w), shape ``(*,)``
        """
        y = self.decay * w + self.log_std.exp() * noise
        return y, _log_normal(noise, self.log_std)

    def log_forward(self, y: Tensor, w: Tensor) -> Tensor:
        """log q(y | w), ``(*, d), (*, d) -> (*,)``."""
        return _log_normal((y - self.decay * w) * (-self.log_std).exp(), self.log_std)

    def log_backward(self, w: Tensor, y: Tensor) -> Tensor:
        """log r(w | y), ``(*, d), (*, d) -> (*,)``."""
        variance = (2 * self.log_std).exp()
        m, raw = self.output_layer((self.hidden_layer(y) + self.context).tanh()).chunk(2, dim=-1)
        log_std = self.log_std + variance * bounded(raw, LOG_SCALE_LIMIT)
        return _log_normal((w - self.decay * y - variance * m) * (-log_std).exp(), log_std)


def _log_normal(standardized: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, of a value less its mean, by its std."""
    return -(0.5 * standardized.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def _smooth_ramp(x: Tensor) -> Tensor:
    """x itself from 0 on, and tanh(x) below: never less than -1, with a gradient everywhere."""
    return torch.where(x > 0, x, torch.tanh(x))
