"""Maximum likelihood: density estimation, and behaviour cloning where there is a context."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.fit.monitor import Monitor
from flowrl.fit.optimization import Optimization, check_positive, prepared
from flowrl.flows.flow import Flow

EVALUATIONS = 100  # points of the curves
EVALUATION_ROWS = 4_096  # rows that a point of a curve is an average over, at most

Rows = tuple[Tensor, Tensor | None]
"""Data with their contexts."""


@dataclass(frozen=True)
class DensityFit:
    """What came of :func:`fit_density`; log-likelihoods are means per row, in nats.

    :param steps: at which the curves have points; the first is 0, before training
    :param train: log-likelihood of (up to 4,096 rows of) the training data at these steps
    :param validation: of the validation data; empty where there are none
    :param best_step: the step whose weights the flow has now
    :param log_likelihood: of all validation data under these weights; nan where there are none. The weights were chosen
        by these data: for a figure to report, keep test data apart
    :param seconds: wall-clock time
    """

    steps: list[int]
    train: list[float]
    validation: list[float]
    best_step: int
    log_likelihood: float
    seconds: float


def fit_density(
    flow: nn.Module,
    data: Tensor,
    context: Tensor | None = None,
    *,
    steps: int = 2_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    validation: float | Tensor | tuple[Tensor, Tensor] = 0.1,
    patience: int | None = 500,
    device: Any = None,
    seed: int | None = None,
    progress: bool = False,
    log_dir: str | Path | None = None,
) -> DensityFit:
    """Fit a flow to data by maximum likelihood, in place; it ends with the weights that were best on validation data.

    Adam on minibatches drawn without replacement in each epoch; in the second half of the steps its learning rate
    decays to zero along a cosine.

    :param flow: ``flow(context)``, or ``flow()``, is a distribution with ``log_prob`` (flowrl's, zuko's, ...)
    :param data: shape ``(n, *event)``, cast to the flow's dtype, minibatch by minibatch moved to its device
    :param context: shape ``(n, *context)``
    :param steps: of the optimiser, at most
    :param batch_size: rows a step
    :param learning_rate: in the first half
    :param validation: the fraction of the data to hold out, drawn at random (0: none); or data, or (data, context)
    :param patience: stop once this many steps have brought no better validation log-likelihood; None: never
    :param device: where to train; the flow stays there. None: where it is
    :param seed: makes the fit reproducible, and leaves torch's random numbers as they were
    :param progress: show a progress bar
    :param log_dir: write TensorBoard scalars there
    :raises ValueError: for shapes that do not fit, or data that are not finite
    :raises FloatingPointError: where the likelihood ceases to be finite; the flow has the best weights until then
    """
    counts = dict(steps=steps, batch_size=batch_size) | ({} if patience is None else dict(patience=patience))
    check_positive(learning_rate, **counts)
    start = time.perf_counter()
    with prepared(flow, device, seed) as like:
        flow.eval()
        train, held_out = _split(_checked(flow, like, data, context, "data"), flow, like, validation)
        if context is None and isinstance(flow, Flow):
            flow.warn_if_wider(train[0])
        rows = dict(train=_subset(train)) | ({} if held_out is None else dict(validation=_subset(held_out)))
        points: list[int] = []
        curves: dict[str, list[float]] = dict(train=[], validation=[])
        optimization = Optimization(flow, learning_rate, steps)
        batches = _minibatches(train, batch_size)

        def evaluate(step: int) -> None:
            flow.eval()
            values = {name: _log_likelihood(flow, like, part) for name, part in rows.items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    raise FloatingPointError(f"the log-likelihood of the {name} data is {value:g}")
                curves[name].append(value)
            points.append(step)
            monitor.record(step, **values)
            score = values.get("validation", math.inf)  # without validation data the last weights are the best
            if score > optimization.best or held_out is None:
                optimization.remember(score, step)

        step, every = 0, max(1, steps // EVALUATIONS)
        try:
            with Monitor(steps, progress, log_dir) as monitor:
                evaluate(step)
                for step in range(1, steps + 1):
                    flow.train()
                    optimization.step(-_log_prob(flow, like, next(batches)).mean())
                    monitor.advance()
                    if step % every == 0 or step == steps:
                        evaluate(step)
                        if patience is not None and step - optimization.best_step >= patience:
                            break
        except FloatingPointError as error:
            raise FloatingPointError(
                f"Fitting stopped at step {step}: {error}. The flow has the weights of step {optimization.best_step}, "
                "the best until then; try a smaller learning_rate, or standardise the data."
            ) from error
        finally:
            optimization.restore()
        flow.eval()
        log_likelihood = math.nan if held_out is None else _log_likelihood(flow, like, held_out)
    return DensityFit(
        points,
        **curves,
        best_step=optimization.best_step,
        log_likelihood=log_likelihood,
        seconds=time.perf_counter() - start,
    )


def _log_prob(flow: nn.Module, like: Tensor, rows: Rows) -> Tensor:
    """Log-density of each row, shape ``(n,)``."""
    data, context = (None if part is None else _to(part, like) for part in rows)
    distribution = flow() if context is None else flow(context)
    return distribution.log_prob(data)


def _to(part: Tensor, like: Tensor) -> Tensor:
    return part.to(like.device, like.dtype if part.is_floating_point() else part.dtype)


@torch.no_grad()
def _log_likelihood(flow: nn.Module, like: Tensor, rows: Rows) -> float:
    """Mean over the rows, nats."""
    data, context = rows
    contexts = [None] * len(data) if context is None else context.split(EVALUATION_ROWS)
    parts = zip(data.split(EVALUATION_ROWS), contexts)
    return sum(_log_prob(flow, like, part).double().sum().item() for part in parts) / len(data)


def _checked(flow: nn.Module, like: Tensor, data: Any, context: Any, name: str) -> Rows:
    """The data as tensors; ValueErrors where they cannot be fitted."""
    data = torch.as_tensor(data).detach()  # whatever it was computed from is not trained
    context = None if context is None else torch.as_tensor(context).detach()
    if data.dim() < 2 or len(data) == 0 or not data.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point numbers of shape (n, features) with n >= 1, "
            f"got {data.dtype} of shape {tuple(data.shape)}."
        )
    if context is not None and (context.dim() < 2 or len(context) != len(data)):
        raise ValueError(
            f"context must have shape ({len(data)}, size), one row for each row of {name}, got {tuple(context.shape)}."
        )
    for part, what in ((data, name), (context, f"context of {name}")):
        if part is not None and not part.isfinite().all():
            bad = (~part.isfinite()).flatten(1).any(1)
            raise ValueError(
                f"{what} must be finite; {int(bad.sum())} of {len(bad)} rows are not, the first is row "
                f"{int(bad.nonzero()[0])}."
            )
    with torch.no_grad():
        first = None if context is None else _to(context[:1], like)
        distribution: Any = flow() if first is None else flow(first)
    event = getattr(distribution, "event_shape", None)
    if event is not None and tuple(event) != tuple(data.shape[1:]):
        raise ValueError(f"{name} must have shape (n, {', '.join(map(str, event))}), got {tuple(data.shape)}.")
    return data, context


def _split(rows: Rows, flow: nn.Module, like: Tensor, validation: Any) -> tuple[Rows, Rows | None]:
    """Training and validation rows."""
    if isinstance(validation, Real):
        n, validation = len(rows[0]), float(validation)
        held_out = round(validation * n)
        if not 0 <= validation < 1 or held_out == n or (validation > 0 and held_out == 0):
            raise ValueError(
                f"validation must be a fraction in [0, 1) that leaves rows to train and to validate, "
                f"got {validation} of {n} rows; or data, or (data, context)."
            )
        order = torch.randperm(n)
        return _take(rows, order[held_out:]), _take(rows, order[:held_out]) if held_out else None
    data, context = validation if isinstance(validation, (tuple, list)) else (validation, None)
    if (context is None) != (rows[1] is None):
        expected = "data alone, since there is no context" if rows[1] is None else "(data, context), as for training"
        raise ValueError(f"validation must be {expected}.")
    return rows, _checked(flow, like, data, context, "validation")


def _take(rows: Rows, index: Tensor) -> Rows:
    data, context = rows
    return data[index.to(data.device)], None if context is None else context[index.to(context.device)]


def _subset(rows: Rows) -> Rows:
    """All rows, or as many of them, drawn at random, as a point of a curve needs."""
    n = len(rows[0])
    return rows if n <= EVALUATION_ROWS else _take(rows, torch.randperm(n)[:EVALUATION_ROWS])


def _minibatches(rows: Rows, batch_size: int) -> Iterator[Rows]:
    """Endless; each epoch in a new order, without its last, incomplete batch."""
    n = len(rows[0])
    size = min(batch_size, n)
    while True:
        for index in torch.randperm(n)[: n - n % size].split(size):
            yield _take(rows, index)
