"""Flows of other libraries (nflows, normflows, torch.distributions) as a builder returns them, under this library's
interface; none of those libraries is imported here."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, TransformedDistribution
from torch.distributions.transforms import Transform as TorchDistributionsTransform

from flowrl.foreign import ForeignDistribution, densest
from flowrl.layers import AffineBijector, Layer
from flowrl.reparameterized import ReparameterizedDistribution
from flowrl.transforms import Transform
from flowrl.transforms.transform import as_rows

Rows = Callable[..., tuple[Tensor, Tensor]]
"""``rows(value, context)`` -> value and log-determinant: what nflows and normflows call a transform or a flow.

Values have shape ``(n, d)``, contexts ``(n, c)``, log-determinants ``(n,)``."""


def adapt(built: Any, features: int, context: int) -> Any:
    """
    What a builder returned, as what :class:`flowrl.Flow` is made of.

    =============================================  =============================================================
    nflows ``Transform``                           a layer on the Gaussian of the context
    nflows ``Flow``                                the distribution as it is, given the context
    normflows ``ConditionalNormalizingFlow``       the same
    normflows ``NormalizingFlow``                  knows no context: moved and scaled as the context says
    normflows flow, or a list of them              layers on the Gaussian of the context
    torch ``TransformedDistribution``              knows no context: moved and scaled as the context says
    =============================================  =============================================================

    Transforms and flows of nflows, and those of normflows that take a ``context``, are given it: build them with
    ``context_features=context`` (nflows) or ``num_context_channels=context`` (normflows).

    :param built: the builder's result
    :param features: d
    :param context: dimension of the context, 0: none
    :return: a list of layers, or a module whose ``module(context)`` is a distribution; anything else as it is
    :raises ValueError: where it does not take d features and this context
    """
    if isinstance(built, (Sequence, nn.ModuleList)):
        return [_layer(part, features, context) for part in built]
    if _is(built, "nflows.flows.base", "Flow"):
        return NflowsFlow(built, features, context)
    if _is(built, "normflows.core", "ConditionalNormalizingFlow"):
        return NormflowsFlow(built, features, context)
    if _is(built, "normflows.core", "NormalizingFlow"):
        return _placed(NormflowsFlow(built, features, 0), features, context)
    if isinstance(built, TransformedDistribution):
        return _placed(TrainedDistribution(built), features, context)
    layer = _layer(built, features, context)
    return [layer] if isinstance(layer, ForeignLayer) else built


def _is(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class that need not be importable: if its module was never imported, it is not."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _layer(part: Any, features: int, context: int) -> Any:
    """A bijection of another library as a layer; anything else as it is."""
    if _is(part, "nflows.transforms.base", "Transform"):  # data to noise
        return ForeignLayer(part, features, context, forward="inverse", inverse="forward")
    if _is(part, "normflows.flows.base", "Flow"):  # noise to data
        takes_context = "context" in inspect.signature(part.forward).parameters
        return ForeignLayer(part, features, context if takes_context else 0, forward="forward", inverse="inverse")
    return part


class ForeignLayer(Layer):
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
        _check(module, features, context, lambda module, *rows: getattr(module, forward)(*rows))

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
        return self._through(self._forward_rows, x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, ladj = self._through(self._inverse_rows, y)
        return x, -ladj

    def _through(self, function: Rows, value: Tensor) -> tuple[Tensor, Tensor]:
        batch, rows = as_rows(value, *([] if self._context is None else [self._context]))
        image, ladj = function(*rows)
        # Some of normflows' flows give one log-determinant for all rows
        return image.view(*batch, -1), ladj.reshape(-1).expand(batch.numel()).view(batch)


class ForeignModel(nn.Module):
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
        _check(self, features, context, lambda copied, rows, *contexts: copied.draw(len(rows), *contexts))

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


class NflowsFlow(ForeignModel):
    """A flow of nflows: its base, its transform and its embedding of the context."""

    def draw(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if context is None:
            return self.model.sample_and_log_prob(n)
        x, log_prob = self.model.sample_and_log_prob(1, context=context)
        return x.squeeze(1), log_prob.squeeze(1)

    def center(self, n: int, context: Tensor | None) -> Tensor | None:
        model = self.model
        embedded = model._embedding_net(context)
        try:
            mean = model._distribution.mean(embedded)
        except Exception as error:
            if type(error).__name__ not in ("NoMeanException", "NotImplementedError"):
                raise
            return None
        like = next(model.parameters())
        return model._transform.inverse(mean.expand(n, -1).to(like), embedded)[0]


class NormflowsFlow(ForeignModel):
    """A model of normflows: its base and its flows."""

    def draw(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.sample(n) if context is None else self.model.sample(n, context=context)

    def center(self, n: int, context: Tensor | None) -> Tensor | None:
        model = self.model
        if hasattr(model.q0, "context_encoder"):
            mean = model.q0.context_encoder(context)[..., : self.features]
        elif isinstance(getattr(model.q0, "loc", None), Tensor) and model.q0.loc.numel() == self.features:
            mean = model.q0.loc.reshape(1, -1).expand(n, -1)
        else:
            return None
        return model.forward(mean) if context is None else model.forward(mean, context=context)


class ModelDistribution(ReparameterizedDistribution):
    """
    What a :class:`ForeignModel` is for a batch of contexts.

    :param model: the model
    :param context: shape ``(*batch, c)``; None: the batch is of shape ``()``
    :param features: d
    """

    def __init__(self, model: ForeignModel, context: Tensor | None, features: int):
        super().__init__(torch.Size() if context is None else context.shape[:-1], features)
        self.model, self.context = model, context

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        batch = torch.Size((*sample_shape, *self.batch_shape))
        x, log_prob = self.model.draw(batch.numel(), *self._contexts(batch))
        return x.view(*batch, -1), log_prob.view(batch)

    def log_prob(self, value: Tensor) -> Tensor:
        batch, rows = as_rows(value, *([] if self.context is None else [self.context]))
        return self.model.score(*rows).view(batch)

    def center(self) -> Tensor:
        contexts = self._contexts(self.batch_shape)
        center = self.model.center(self.batch_shape.numel(), contexts[0] if contexts else None)
        return densest(self) if center is None else center.view(*self.batch_shape, -1)

    def _contexts(self, batch: torch.Size) -> tuple[Tensor, ...]:
        if self.context is None:
            return ()
        return (self.context.expand(*batch, -1).reshape(batch.numel(), -1),)


def _placed(module: nn.Module, features: int, context: int) -> nn.Module:
    return Placed(module, features, context) if context else module


class Placed(nn.Module):
    """
    A distribution that knows no context, moved and scaled as the context says.

    :param module: ``module()`` is the distribution over vectors of size d
    :param features: d
    :param context: dimension of the context
    """

    def __init__(self, module: nn.Module, features: int, context: int):
        super().__init__()
        self.module, self.features = module, features
        self.bijector = AffineBijector()
        self.head = nn.Linear(context, features * self.bijector.parameters_per_feature)

    def forward(self, context: Tensor) -> ReparameterizedDistribution:
        distribution = self.module()
        if not isinstance(distribution, ReparameterizedDistribution):
            distribution = ForeignDistribution(distribution, self.features)
        transform = self.bijector(self.head(context).unflatten(-1, (self.features, -1)))
        return PlacedDistribution(distribution, transform, context.shape[:-1])


class PlacedDistribution(ReparameterizedDistribution):
    """
    One distribution, through a batch of transforms.

    :param distribution: of batch shape ``()``
    :param transform: with parameters of shape ``(*batch, d)``
    :param batch_shape: their batch shape
    """

    def __init__(self, distribution: ReparameterizedDistribution, transform: Transform, batch_shape: torch.Size):
        super().__init__(batch_shape, distribution.event_shape[0])
        self.distribution, self.transform = distribution, transform

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        y, log_prob = self.distribution.rsample_and_log_prob((*sample_shape, *self.batch_shape))
        x, ladj = self.transform.call_and_ladj(y)
        return x, log_prob - ladj

    def log_prob(self, value: Tensor) -> Tensor:
        y, ladj = self.transform.inverse_and_ladj(value)
        return self.distribution.log_prob(y) - ladj

    def center(self) -> Tensor:
        return self.transform.call_and_ladj(self.distribution.center().expand(*self.batch_shape, -1))[0]


class TrainedDistribution(nn.Module):
    """
    A `TransformedDistribution` as a module: the parameters that its base and its transforms hold are trained.

    :param distribution: over vectors; a copy is used
    :raises ValueError: if it holds a tensor computed from a parameter, which would go stale
    """

    def __init__(self, distribution: TransformedDistribution):
        super().__init__()
        for owner, name, value in _tensors(distribution):
            if value.requires_grad and not value.is_leaf:
                raise ValueError(
                    f"{type(owner).__name__}.{name} is computed from a parameter and would not follow it in training: "
                    "return a module whose forward builds the distribution."
                )
        self.distribution = copy.deepcopy(distribution)
        held = [value for _, _, value in _tensors(self.distribution)]
        self.trained = nn.ParameterList(value for value in held if isinstance(value, nn.Parameter))
        self.modules_held = nn.ModuleList(_parts(self.distribution, nn.Module))

    def forward(self) -> TransformedDistribution:
        return self.distribution

    def _apply(self, fn: Any, recurse: bool = True) -> TrainedDistribution:
        """`Module.to` and its like: what is not trained moves too."""
        super()._apply(fn, recurse)
        for owner, name, value in list(_tensors(self.distribution)):
            if not isinstance(value, nn.Parameter):
                vars(owner)[name] = fn(value)
        return self


def _parts(value: Any, kind: type) -> Iterator[Any]:
    """What of a kind a distribution is made of, itself included; a module is not looked into."""
    if isinstance(value, kind):
        yield value
    if isinstance(value, (list, tuple)):
        parts: Any = value
    elif isinstance(value, (Distribution, TorchDistributionsTransform)) and not isinstance(value, nn.Module):
        parts = vars(value).values()
    else:
        return
    for part in parts:
        yield from _parts(part, kind)


def _tensors(distribution: Distribution) -> Iterator[tuple[Any, str, Tensor]]:
    """The tensors that a distribution and its transforms hold, with their owners and names."""
    for owner in _parts(distribution, (Distribution, TorchDistributionsTransform)):  # type: ignore[arg-type]
        if not isinstance(owner, nn.Module):
            yield from ((owner, name, value) for name, value in vars(owner).items() if isinstance(value, Tensor))


@torch.no_grad()
def _check(module: nn.Module, features: int, context: int, call: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """
    Try a copy on one row, as a policy will: refuse what does not fit, or needs a whole batch to initialise itself.

    :param module: a layer's bijection, or a :class:`ForeignModel`
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
