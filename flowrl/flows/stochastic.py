"""Stochastic normalizing flows (Wu, Koehler and Noe 2020): transforms with steps of Markov chains between them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions.transforms import Transform as TorchDistributionsTransform

from flowrl.flows.distribution import standard_normal_log_prob
from flowrl.flows.flow import Flow
from flowrl.flows.path import PathFlow
from flowrl.layers import Constant
from flowrl.options import whole
from flowrl.transforms.transform import as_transform

LogDensity = Callable[[Tensor], Tensor]
"""Log of an unnormalised density, ``(*batch, d) -> (*batch,)``."""


class StochasticStep(nn.Module):
    """Some steps of a Markov chain towards the annealed density p_a = N(0, I)^(1 - a) p~^a.

    :param step_size: epsilon > 0
    :param steps: how many, >= 1
    :param annealing: a in [0, 1]; 0 is the base, 1 the target
    :raises ValueError: for values outside of these
    """

    def __init__(self, step_size: float, steps: int = 1, annealing: float = 1.0):
        super().__init__()
        if not (step_size > 0 and 0 <= annealing <= 1):
            raise ValueError(
                f"{type(self).__name__} needs step_size > 0 and annealing in [0, 1], got step_size={step_size}, "
                f"annealing={annealing}."
            )
        self.step_size, self.steps, self.annealing = step_size, whole("steps", steps, 1), annealing

    def forward(self, y: Tensor, log_density: LogDensity) -> tuple[Tensor, Tensor]:
        r"""
        :param y: where the chain is, shape ``(*batch, d)``
        :param log_density: log p~ of the target
        :return: where it goes, :math:`y'`, and :math:`\log \tilde k(y' \to y) - \log k(y \to y')`, how much more
            probable the step back is under the backward kernel than the step was under the forward one, ``(*batch,)``
        """
        raise NotImplementedError

    def annealed(self, y: Tensor, log_density: LogDensity) -> Tensor:
        """log p_a(y), shape ``(*batch,)``."""
        if self.annealing == 0:  # 0 times -inf is no number
            return standard_normal_log_prob(y)
        return (1 - self.annealing) * standard_normal_log_prob(y) + self.annealing * log_density(y)

    def annealed_and_score(self, y: Tensor, log_density: LogDensity) -> tuple[Tensor, Tensor]:
        """log p_a(y) and its gradient, the score, differentiable where gradients are on."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            at = y if y.requires_grad else y.detach().requires_grad_()
            log_p = self.annealed(at, log_density)
            (score,) = torch.autograd.grad(log_p.sum(), at, create_graph=differentiable)
        return (log_p, score) if differentiable else (log_p.detach(), score)

    def langevin_proposal(self, y: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """:math:`y' = y + \\epsilon \\nabla \\log p_a(y) + \\sqrt{2 \\epsilon} \\eta`, and the noise eta."""
        noise = torch.randn_like(y)
        return y + self.step_size * score + math.sqrt(2 * self.step_size) * noise, noise

    def langevin_ratio(self, noise: Tensor, score: Tensor, score_there: Tensor) -> Tensor:
        """log k(y' -> y) - log k(y -> y') of two Langevin steps: eta of the way back against eta of the way there."""
        noise_back = -math.sqrt(self.step_size / 2) * (score + score_there) - noise
        return 0.5 * (noise.square() - noise_back.square()).sum(-1)


class Langevin(StochasticStep):
    """Overdamped Langevin steps, unadjusted; the backward kernel is the same step from the other end.

    Samples are reparameterised by the steps' noise: exact gradients flow through them.
    """

    def forward(self, y: Tensor, log_density: LogDensity) -> tuple[Tensor, Tensor]:
        total: Any = 0.0
        _log_p, score = self.annealed_and_score(y, log_density)
        for _ in range(self.steps):
            y, noise = self.langevin_proposal(y, score)
            before, (_log_p, score) = score, self.annealed_and_score(y, log_density)
            total = total + self.langevin_ratio(noise, before, score)
        return y, total


class RandomWalkMetropolis(StochasticStep):
    """Metropolis-Hastings steps with Gaussian proposals of standard deviation epsilon.

    They leave p_a invariant, so that the ratio is p_a(y) / p_a(y'). Gradients flow through the points of
    the chain and not through its decisions to accept: they are not exact gradients of expectations.
    """

    def forward(self, y: Tensor, log_density: LogDensity) -> tuple[Tensor, Tensor]:
        log_p, total = self.annealed(y, log_density), torch.zeros_like(y[..., 0])
        for _ in range(self.steps):
            there = y + self.step_size * torch.randn_like(y)
            log_p_there = self.annealed(there, log_density)
            accept = _accept(log_p_there - log_p)
            total = torch.where(accept, total + log_p - log_p_there, total)  # both may be -inf where nothing moves
            y = torch.where(accept.unsqueeze(-1), there, y)
            log_p = torch.where(accept, log_p_there, log_p)
        return y, total


class MetropolisAdjustedLangevin(StochasticStep):
    """Metropolis-Hastings steps with Langevin's proposals (MALA); gradients as in :class:`RandomWalkMetropolis`."""

    def forward(self, y: Tensor, log_density: LogDensity) -> tuple[Tensor, Tensor]:
        log_p, score = self.annealed_and_score(y, log_density)
        total = torch.zeros_like(log_p)
        for _ in range(self.steps):
            there, noise = self.langevin_proposal(y, score)
            log_p_there, score_there = self.annealed_and_score(there, log_density)
            accept = _accept(log_p_there - log_p + self.langevin_ratio(noise, score, score_there))
            total = torch.where(accept, total + log_p - log_p_there, total)
            log_p = torch.where(accept, log_p_there, log_p)
            accept = accept.unsqueeze(-1)
            y, score = torch.where(accept, there, y), torch.where(accept, score_there, score)
        return y, total


def _accept(log_ratio: Tensor) -> Tensor:
    """True with probability min(1, e^log_ratio); nan: never."""
    return torch.rand_like(log_ratio).log() < log_ratio


class StochasticFlow(nn.Module):
    r"""Standard normal noise through transforms and stochastic steps, with the importance weight of its path.

    Between two transforms, the steps of a Markov chain move samples to where a flow of these transforms alone would
    have to bend for; the target's density is used on the way. With steps alone it is annealed importance sampling (Neal
    2001). A sample's density would be an integral over all paths
    that lead there, so that there is no ``log_prob``; the path's weight takes its place:

    .. math:: \log w = \log \tilde p(x) - \log N(z; 0, I)
              + \sum_{steps} \log \frac{\tilde k(y' \to y)}{k(y \to y')}
              + \sum_{transforms} \log\left|\det \frac{\partial y'}{\partial y}\right|

    E[w] = Z and E[w f(x)] = Z E_p[f] exactly; E[log w] is a lower bound on log Z, so that its negative is the loss to
    train by; :func:`flowrl.fit.importance.importance_estimate` sums up the weights. ::

        flow = StochasticFlow(2, [Flow(2, flow="realnvp"), Langevin(0.01, annealing=0.5), Flow(2, flow="realnvp"),
                                  RandomWalkMetropolis(0.3, steps=10)])
        x, log_weight = flow.sample_and_log_weight(log_density, 256)
        loss = -log_weight.mean()

    :param features: d
    :param parts: unconditional :class:`flowrl.Flow` s (with their mean and scale), transforms of flowrl or torch (whose
        parameters and modules are the flow's), :class:`StochasticStep` s, from noise to sample
    :raises ValueError: for other parts, or flows of other sizes
    """

    zero: Tensor

    def __init__(self, features: int, parts: Sequence[Flow | TorchDistributionsTransform | StochasticStep]):
        super().__init__()
        self.features = features
        self.parts = nn.ModuleList([_as_part(part, features) for part in parts])
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # has the dtype and device of samples

    def sample_and_log_weight(self, log_density: LogDensity, n: int) -> tuple[Tensor, Tensor]:
        """
        Samples and their paths' weights; differentiable in the flow's parameters as far as its steps are.

        :param log_density: log p~ of the target, ``(n, d) -> (n,)``
        :param n: how many
        :return: x, shape ``(n, d)``, and log w, shape ``(n,)``
        :raises ValueError: where log_density returns another shape
        """
        y = torch.randn(n, self.features, dtype=self.zero.dtype, device=self.zero.device)
        log_weight = -standard_normal_log_prob(y)
        for part in self.parts:
            y, change = part(y, log_density)
            log_weight = log_weight + change
        log_p = log_density(y)
        if log_p.shape != (n,):
            raise ValueError(f"log_density must map {tuple(y.shape)} to ({n},), got {tuple(log_p.shape)}.")
        return y, log_weight + log_p

    def __getattr__(self, name: str) -> Any:
        if name in ("log_prob", "rsample_and_log_prob"):
            raise AttributeError(
                f"A StochasticFlow has no {name}: a sample's density is an integral over all paths that lead to it. "
                "sample_and_log_weight gives the exact importance weight of the sample's own path."
            )
        return super().__getattr__(name)


class _Deterministic(nn.Module):
    """A transform as a part: its log-determinant is the change of the weight."""

    def __init__(self, transform: Flow | Constant):
        super().__init__()
        self.transform = transform

    def forward(self, y: Tensor, log_density: LogDensity) -> tuple[Tensor, Tensor]:
        transform: Any = self.transform
        if isinstance(transform, Flow):
            transform = transform().transform
        elif isinstance(transform, Constant):  # else of one that an earlier version pickled: the transform itself
            transform = transform(y)
        return transform.call_and_ladj(y)


def _as_part(part: Any, features: int) -> nn.Module:
    if isinstance(part, StochasticStep):
        return part
    if isinstance(part, Flow) and not isinstance(part, PathFlow):
        if part.context or part.is_external or part.features != features:
            raise ValueError(
                f"The flows of a StochasticFlow must be unconditional, of flowrl's layers and of {features} features; "
                f"got one with context={part.context}, features={part.features}"
                + (", of another library." if part.is_external else ".")
            )
        return _Deterministic(part)
    if isinstance(part, TorchDistributionsTransform):
        return _Deterministic(Constant(as_transform(part)))
    raise ValueError(f"A StochasticFlow is made of flows, transforms and stochastic steps, got {type(part).__name__}.")
