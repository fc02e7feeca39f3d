"""Importance weights: what samples of one distribution say about another's normaliser, and how far to trust them."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImportanceEstimate:
    """What log-weights log w = log p~(x) - log q(x), x ~ q, say of log Z = log of the integral of p~.

    :param elbo: mean of log w, a lower bound on log Z (the evidence lower bound), nats
    :param elbo_standard_error: its standard error
    :param log_z: log of the mean of w: consistent for log Z (w itself is unbiased for Z), nats
    :param log_z_standard_error: its standard error by the delta method; not to be trusted where ``ess`` is small
    :param ess: Kish's effective sample size as a fraction of the sample, (mean w)^2 / mean w^2, in (0, 1]
    """

    elbo: float
    elbo_standard_error: float
    log_z: float
    log_z_standard_error: float
    ess: float


def importance_estimate(log_weights: Tensor) -> ImportanceEstimate:
    """
    :param log_weights: log w of independent samples, shape ``(n,)``, n >= 2; -inf where p~ is zero
    :raises ValueError: for another shape, or where all weights are zero or some are not a number or infinite
    """
    if log_weights.dim() != 1 or len(log_weights) < 2:
        raise ValueError(f"log_weights must have shape (n,) with n >= 2, got {tuple(log_weights.shape)}.")
    log_w = log_weights.detach().double()
    n, largest = len(log_w), log_w.max()
    if not largest.isfinite():  # the maximum of a set with nan is nan
        raise ValueError(f"log_weights must be below infinity and not all -inf; their maximum is {largest}.")
    ess = effective_sample_size(log_w).item()
    return ImportanceEstimate(
        elbo=log_w.mean().item(),
        elbo_standard_error=log_w.std().item() / math.sqrt(n),
        log_z=log_w.logsumexp(0).item() - math.log(n),
        log_z_standard_error=math.sqrt((1 / ess - 1) / (n - 1)),
        ess=ess,
    )


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Kish's effective sample size as a fraction of the sample, (mean w)^2 / mean w^2.

    :param log_weights: log w, shape ``(n,)``, not all -inf
    :return: a number in (0, 1]
    """
    log_ess = 2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0) - math.log(len(log_weights))
    return log_ess.exp().clamp(max=1.0)
