"""What the adapters of other libraries share: rows of values and contexts as layers, modules and distributions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.adapters.distribution import densest
from flowrl.flows.distribution import ReparameterizedDistribution
from flowrl.flows.precision import without_autocast
from flowrl.layers import Layer
from flowrl.transforms import Transform
from flowrl.transforms.transform import as_rows

Rows = Callable[..., tuple[Tensor, Tensor]]
"""``rows(value, context)`` -> value and log-determinant: what nflows and normflows call a transform or a flow.

Values have shape ``(n, d)``, contexts ``(n, c)``, log-determinants ``(n,)``."""


class ExternalLayer(Layer):
    """
    A transform of nflows or a flow of normflows between the noise and the Gaussian of the context.

    :param module: it
    :param features: d
    :param context: dimension of the context that it is given; 0: it is given none
    :param forward: name of its method from noise to value
    :param inverse: name of its method from value to noise
    """

    def __init__(self, module: nn.Module, features: int, context: int, forward: str, inverse: str):
        super().__init__()
        self.module, self.context_size = module, context
        self.names = forward, inverse
        check_on_one_row(module, features, context, lambda module, *rows: getattr(module, forward)(*rows))

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """The context itself, at the start."""
        nn.init.eye_(weight)
        nn.init.zeros_(bias)

    def forward(self, parameters: Tensor) -> Transform:
        forward, inverse = (getattr(self.module, name) for name in self.names)
        return RowTransform(forward, inverse, parameters if self.context_size else None)


class RowTransform(Transform):
    """
    Two functions of rows as one transform of any batch shape.

    :param forward: noise to value, with the log-determinant of that
    :param inverse: value to noise, with the log-determinant of *that*, the negative of the forward's
    :param context: shape ``(*batch, c)``; None: the functions are given none
    """

    def __init__(self, forward: Rows, inverse: Rows, context: Tensor | None):
        super().__init__()
        self._forward_rows, self._inverse_rows, self._context = forward, inverse, context

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._evaluate(self._forward_rows, x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, ladj = self._evaluate(self._inverse_rows, y)
        return x, -ladj

    def _evaluate(self, function: Rows, value: Tensor) -> tuple[Tensor, Tensor]:
        batch, rows = as_rows(value, *([] if self._context is None else [self._context]))
        image, ladj = function(*rows)
        # Some of normflows' flows give one log-determinant for all rows
        return image.view(*batch, -1), ladj.reshape(-1).expand(batch.numel()).view(batch)


class ExternalModel(nn.Module):
    """
    A model of another library that samples and scores rows; ``model(context)`` is the distribution.

    :param model: it
    :param features: d
    :param context: dimension of the context; 0: it is given none
    """

    model: Any

    def __init__(self, model: nn.Module, features: int, context: int):
        super().__init__()
        self.model, self.features = model, features
        check_on_one_row(self, features, context, lambda copied, rows, *contexts: copied.draw(len(rows), *contexts))

    def forward(self, context: Tensor | None = None) -> ReparameterizedDistribution:
        return ModelDistribution(self, context, self.features)

    def draw(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        :param n: how many; as many as there are contexts
        :param context: shape ``(n, c)``
        :return: samples, shape ``(n, d)``, and their log-probs, shape ``(n,)``
        """
        raise NotImplementedError

    def score(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-probs of rows, shape ``(n,)``."""
        model = self.model
        return model.log_prob(value) if context is None else model.log_prob(value, context=context)

    def center(self, n: int, context: Tensor | None) -> Tensor | None:
        """The image of the base's mean, shape ``(n, d)``; None where the base has no mean that one could ask for."""
        raise NotImplementedError


class ModelDistribution(ReparameterizedDistribution):
    """
    What a :class:`ExternalModel` is for a batch of contexts.

    :param model: the model
    :param context: shape ``(*batch, c)``; None: the batch is of shape ``()``
    :param features: d
    """

    def __init__(self, model: ExternalModel, context: Tensor | None, features: int):
        super().__init__(torch.Size() if context is None else context.shape[:-1], features)
        self.model, self.context = model, context

    @without_autocast()
    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        batch = torch.Size((*sample_shape, *self.batch_shape))
        x, log_prob = self.model.draw(batch.numel(), *self._contexts(batch))
        return x.view(*batch, -1), log_prob.view(batch)

    @without_autocast()
    def log_prob(self, value: Tensor) -> Tensor:
        batch, rows = as_rows(value, *([] if self.context is None else [self.context]))
        return self.model.score(*rows).view(batch)

    @without_autocast()
    def center(self) -> Tensor:
        contexts = self._contexts(self.batch_shape)
        center = self.model.center(self.batch_shape.numel(), contexts[0] if contexts else None)
        return densest(self) if center is None else center.view(*self.batch_shape, -1)

    def _contexts(self, batch: torch.Size) -> tuple[Tensor, ...]:
        if self.context is None:
            return ()
        return (self.context.expand(*batch, -1).reshape(batch.numel(), -1),)


@torch.no_grad()
def check_on_one_row(
    module: nn.Module, features: int, context: int, call: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    """
    Try a copy on one row, as a policy will: refuse what does not fit, or needs a whole batch to initialise itself.

    :param module: a layer's bijection, or a :class:`ExternalModel`
    :param call: ``call(module, rows[, contexts])`` -> values and log-dets or log-probs
    """
    like = next(module.parameters(), torch.zeros(()))
    rows = [torch.zeros(1, size, dtype=like.dtype, device=like.device) for size in (features, context) if size]
    name, advice = type(getattr(module, "model", module)).__name__, ""
    if context:
        advice = f"; it is given a context of size {context}: build it for one (context_features, num_context_channels)"
    try:
        with torch.random.fork_rng():
            value, log = call(copy.deepcopy(module).eval(), *rows)
    except Exception as error:  # whatever a wrong shape leads to
        raise ValueError(
            f"{name} does not serve as a flow over {features} features ({type(error).__name__}: {error}){advice}."
        ) from error
    if value.shape != rows[0].shape or log.numel() != 1:
        raise ValueError(
            f"{name} must give values of shape (n, {features}) and one number a row, got {tuple(value.shape)} and "
            f"{tuple(log.shape)} for one row."
        )
    if not (value.isfinite().all() and log.isfinite().all()):
        raise ValueError(
            f"{name} gives {value.tolist()} for one row: layers that initialise themselves from a first batch cannot "
            "be part of a policy, whose first batch is one state."
        )
