"""Variational inference: a flow fitted to an unnormalised density by the reverse Kullback-Leibler divergence."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.fit.importance import ImportanceEstimate, effective_sample_size, importance_estimate
from flowrl.fit.monitor import Monitor
from flowrl.fit.optimization import Optimization, check_positive, prepared
from flowrl.options import whole

POINTS = 100  # of the curves
FIRST_BETA = 0.01  # where annealing starts
EVALUATION_SAMPLES = 10_000


@dataclass(frozen=True)
class VariationalFit(ImportanceEstimate):
    """What came of :func:`fit_variational`: an :class:`ImportanceEstimate` from fresh samples, and the curves.

    :param steps: at which the curves have points
    :param elbo_curve: mean of log p~ - log q over the samples of the steps up to there, nats
    :param ess_curve: effective sample size among the samples of one step, a fraction, mean over the same steps
    :param seconds: wall-clock time
    """

    steps: list[int]
    elbo_curve: list[float]
    ess_curve: list[float]
    seconds: float


def fit_variational(
    flow: nn.Module,
    log_density: Callable[[Tensor], Tensor],
    *,
    steps: int = 2_000,
    samples: int = 256,
    learning_rate: float = 1e-3,
    annealing: int | None = None,
    context: Tensor | None = None,
    device: Any = None,
    seed: int | None = None,
    progress: bool = False,
    log_dir: str | Path | None = None,
) -> VariationalFit:
    r"""Fit a flow q to an unnormalised density p~ = Z p, in place, by the reverse KL divergence.

    The loss is :math:`E_q[\log q - \beta_t \log \tilde p]`, with :math:`\beta_t` rising linearly from 0.01 to 1
    (Rezende and Mohamed 2015, eq. 20), so that q finds p's modes before it has to leave them. At the end fresh samples
    give the evidence lower bound, an estimate of log Z, and the effective sample size, which tells how near q is to p
    *where q is*: a mode that q never visits goes unseen.

    :param flow: ``flow()``, or ``flow(context)``, is a distribution with ``rsample_and_log_prob``, or ``rsample`` and
        ``log_prob`` (:class:`flowrl.Flow`, zuko's, ...)
    :param log_density: log p~, ``(n, d) -> (n,)``, differentiable, finite wherever q has mass
    :param steps: of the optimiser
    :param samples: of q, a step
    :param learning_rate: Adam's in the first half of the steps; then it decays to zero along a cosine
    :param annealing: steps until beta is 1; None: half of them; 0: beta is 1 from the start
    :param context: of a conditional flow: the one whose distribution is fitted, shape ``(context,)``
    :param device: where to train; the flow stays there. None: where it is
    :param seed: makes the fit reproducible, and leaves torch's random numbers as they were
    :param progress: show a progress bar
    :param log_dir: write TensorBoard scalars there
    :raises ValueError: for shapes that do not fit
    :raises FloatingPointError: where the loss ceases to be finite; the flow has the weights of the best point so far
    """
    check_positive(learning_rate, steps=steps, samples=samples)
    annealing = steps // 2 if annealing is None else whole("annealing", annealing, 0, steps)
    start = time.perf_counter()
    with prepared(flow, device, seed) as like:
        at = None if context is None else torch.as_tensor(context).detach().to(like)
        points, elbo_curve, ess_curve = [], [], []
        optimization = Optimization(flow, learning_rate, steps)
        step, every = 0, max(1, steps // POINTS)
        elbo, ess = torch.zeros(2, device=like.device)
        flow.train()
        try:
            with Monitor(steps, progress, log_dir) as monitor:
                for step in range(1, steps + 1):
                    beta = 1.0 if step > annealing else FIRST_BETA + (1 - FIRST_BETA) * (step - 1) / annealing
                    log_p, log_q = _log_densities(flow, at, log_density, samples)
                    optimization.step((log_q - beta * log_p).mean())
                    with torch.no_grad():
                        log_w = log_p - log_q
                        elbo += log_w.mean()
                        ess += effective_sample_size(log_w)
                    monitor.advance()
                    if step % every == 0:
                        points.append(step)
                        elbo_curve.append(elbo.item() / every)
                        ess_curve.append(ess.item() / every)
                        monitor.record(step, elbo=elbo_curve[-1], ess=ess_curve[-1], beta=beta)
                        elbo, ess = torch.zeros(2, device=like.device)
                        if elbo_curve[-1] > optimization.best:
                            optimization.remember(elbo_curve[-1], step)
        except FloatingPointError as error:
            optimization.restore()
            raise FloatingPointError(
                f"Fitting stopped at step {step}: {error}. The flow has the weights of step {optimization.best_step}, "
                "the best until then; log_density must be finite wherever the flow has mass, and a smaller "
                "learning_rate may help."
            ) from error
        flow.eval()
        log_w = _log_weights(flow, at, log_density, samples)
    if undefined := int(log_w.isnan().sum()):
        raise FloatingPointError(
            f"log_density is not a number at {undefined} of {len(log_w)} samples of the fitted flow, which keeps its "
            "weights; it must be finite wherever the flow has mass."
        )
    estimate = importance_estimate(log_w)
    return VariationalFit(
        **vars(estimate), steps=points, elbo_curve=elbo_curve, ess_curve=ess_curve, seconds=time.perf_counter() - start
    )


def _log_densities(
    flow: nn.Module, context: Tensor | None, log_density: Callable[[Tensor], Tensor], n: int
) -> tuple[Tensor, Tensor]:
    """log p~ and log q of n samples of q, shape ``(n,)``."""
    distribution: Any = flow() if context is None else flow(context)
    fused = getattr(distribution, "rsample_and_log_prob", None)
    if fused is not None:
        x, log_q = fused((n,))
    else:
        x = distribution.rsample((n,))
        log_q = distribution.log_prob(x)
    if log_q.shape != (n,):
        raise ValueError(
            f"flow must be one distribution: an unconditional flow, or context of shape (size,); "
            f"{n} samples have log-probs of shape {tuple(log_q.shape)}."
        )
    log_p = log_density(x)
    if log_p.shape != (n,):
        raise ValueError(f"log_density must map {tuple(x.shape)} to ({n},), got {tuple(log_p.shape)}.")
    return log_p, log_q


@torch.no_grad()
def _log_weights(
    flow: nn.Module, context: Tensor | None, log_density: Callable[[Tensor], Tensor], samples: int
) -> Tensor:
    sizes = [min(samples, EVALUATION_SAMPLES - done) for done in range(0, EVALUATION_SAMPLES, samples)]
    pairs = [_log_densities(flow, context, log_density, n) for n in sizes]
    return torch.cat([log_p - log_q for log_p, log_q in pairs])
