"""`Flow`: a module that maps a context (a state's features) to an exact conditional distribution."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions.transforms import Transform as TorchDistributionsTransform

from flowrl.adapters.adapt import ExternalLayer, adapt
from flowrl.adapters.distribution import ExternalDistribution
from flowrl.compiled import compiled_flow
from flowrl.flows.distribution import NormalizingFlow, ReparameterizedDistribution
from flowrl.flows.precision import InFullPrecision, full_precision, without_autocast
from flowrl.flows.recipes import DEFAULT_FLOW, AnyFlow, FlowParts, find_flow
from flowrl.layers import Constant, Layer
from flowrl.layers.conditioner import Conditioner
from flowrl.layers.gain import Gained, check_gain
from flowrl.layers.layer import initialize_layers
from flowrl.layers.linear import MIN_STD
from flowrl.options import whole
from flowrl.transforms import Affine, Transform
from flowrl.transforms.holder import lasting
from flowrl.transforms.transform import as_transform

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the bounds of SB3's SAC


class Flow(nn.Module):
    """A conditional normalizing flow: noise -> layers of the recipe -> scale and mean of the context.

    One linear map of the context gives the mean, the log-std and every layer's slice of parameters. At the start every
    layer is volume-preserving and keeps the noise's distribution, so that a new flow is exactly the Gaussian with that
    mean and log-std.

    :param features: d, dimension of the distribution
    :param context: dimension of the context; 0 gives an unconditional flow
    :param flow: a recipe's name (see :func:`flowrl.available_flows`), a builder, or a layer, a transform or a list of
        them (a copy is used; parameters and modules that a transform of torch holds are the flow's)
    :param context_gain: by what the context's weights for the log-std and the layers are multiplied; they start so much
        larger that the flow starts the same. A step of Adam moves every weight by the learning rate, so that an output
        moves by as much for each feature of the context: with a gain below one the flow's shape follows the context in
        smaller steps, and its biases and the mean move as before
    :param conditioner_gain: the same, of the networks in coupling and autoregressive layers (not the convolutional
        ones): by what their last weights, which start at zero, are multiplied; None: as the layers have it, a recipe's
        1. See :class:`flowrl.layers.gain.Gained`
    :param log_std_max: beyond which the log-std that the context gives goes by at most one unit; SB3's bound unless
        given. Data whose deviation is much more than e^log_std_max need a larger one, or are better standardised.
        (NFQ's flows have -1 at most.)
    :param options: passed to the recipe
    :raises ValueError: for an unknown name, options that the recipe does not take, what is no flow, or a gain where it
        has no meaning
    """

    context_map: ContextMap | _Bias
    log_std_max: float = LOG_STD_MAX  # of one that an earlier version pickled
    compiled_numbers = ("log_std_max",)

    def __init__(
        self,
        features: int,
        context: int = 0,
        flow: AnyFlow = DEFAULT_FLOW,
        context_gain: float = 1.0,
        conditioner_gain: float | None = None,
        log_std_max: float = LOG_STD_MAX,
        **options: Any,
    ):
        super().__init__()
        features, context = whole("features", features, 1), whole("context", context, 0)
        context_gain = check_gain(context_gain)
        self.log_std_max = check_log_std_max(log_std_max)
        self.features = features
        self.context = context
        parts = adapt(build_parts(flow, features, context, options), features, context)
        if not isinstance(parts, (Sequence, nn.Module)):
            raise ValueError(
                f"Flow {flow!r} gave a {type(parts).__name__}: a builder returns a list of layers and transforms, or a "
                "module whose module(context) is a distribution."
            )
        self.external = parts if isinstance(parts, nn.Module) else None
        if context_gain != 1.0 and (self.is_external or not context):
            what = "without a context" if not context else "that is a module of another library"
            raise ValueError(f"A flow {what} has no context_gain, got {context_gain!r}.")
        self.layers = nn.ModuleList([] if isinstance(parts, nn.Module) else map(_as_layer, parts))
        if self.external is None:
            self._sizes = [features, features, *(layer.context_size for layer in self._layers())]
            # Unconditional: the map of an empty context is its bias alone.
            outputs = sum(self._sizes)
            self.context_map = ContextMap(context, outputs, features, context_gain) if context else _Bias(outputs)
            self._reset()
        if conditioner_gain is not None:
            gain = check_gain(conditioner_gain, "conditioner_gain")
            if self.conditioners or (gain != 1.0 and features > 1):  # one feature has nothing to condition on
                self.set_conditioner_gain(gain)

    @property
    def is_external(self) -> bool:
        """Whether the builder gave a module of its own in place of layers."""
        return self.external is not None

    @property
    def starts_as_gaussian(self) -> bool:
        """Whether a new flow is the Gaussian of its context: another library's flow need not be."""
        return not self.is_external and not any(isinstance(layer, ExternalLayer) for layer in self.layers)

    def forward(self, context: Tensor | None = None) -> ReparameterizedDistribution:
        """
        :param context: shape ``(*batch, context)``; None where the flow is unconditional
        :return: the distribution given the context, batch shape ``(*batch,)``
        """
        self._check(context)
        if self.external is not None:
            with without_autocast():
                distribution = self.external() if context is None else self.external(_as_parameters(self, context))
            if isinstance(distribution, ReparameterizedDistribution):
                return distribution
            return ExternalDistribution(distribution, self.features)
        return self.from_parameters(self._parameters_of(context))

    def from_parameters(self, parameters: Tensor) -> NormalizingFlow:
        """
        The distribution given what the context map has made of the context.

        :param parameters: the context map's output, shape ``(*batch, context_map.out_features)``
        :return: batch shape ``(*batch,)``
        """
        like = parameters[..., : self.features]
        return compiled_flow(self, parameters) or NormalizingFlow(self.transform_of(parameters), like)

    def transform_of(self, parameters: Tensor) -> Transform:
        """The transform from noise to value, layer by layer.

        :param parameters: the context map's output, shape ``(*batch, context_map.out_features)``
        """
        mean, log_std, *slices = parameters.split(self._sizes, dim=-1)
        with full_precision(parameters.device.type):
            transforms = [layer(part) for layer, part in zip(self._layers(), slices, strict=True)]
        return InFullPrecision([*transforms, Affine(mean, soft_clamp(log_std, self.log_std_max))])

    def _check(self, context: Tensor | None) -> None:
        if (context is None) != (self.context == 0) or (context is not None and context.shape[-1] != self.context):
            given = "no context" if context is None else f"one of shape {tuple(context.shape)}"
            raise ValueError(f"This flow takes a context of size {self.context}, got {given}.")

    def _parameters_of(self, context: Tensor | None) -> Tensor:
        bias = self.context_map.bias
        if bias.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"A flow computes in float32 or float64, and its weights are {bias.dtype}: leave the model in float32, "
                "and train under torch.autocast, where the networks before the flow run in a lower precision."
            )
        if context is None:
            return self.context_map(context)
        with full_precision(bias.device.type):
            return self.context_map(context.to(bias.dtype))

    @torch.no_grad()
    def set_context_gain(self, gain: float) -> None:
        """
        Another gain for the flow that it is now.

        :param gain: see :class:`Flow`; the weights change so that the distributions do not
        :raises ValueError: for a gain that is none, or of a flow that has none
        """
        if self.is_external or not isinstance(self.context_map, ContextMap):
            raise ValueError("A flow without a context, or that is a module of another library, has no context_gain.")
        gain = check_gain(gain)
        self.context_map.weight[self.features :] *= self.context_map.gain / gain
        self.context_map.take_gain(gain)

    @torch.no_grad()
    def set_conditioner_gain(self, gain: float) -> None:
        """
        Another gain for the networks of the layers that it has now; as :meth:`set_context_gain`, but that distributions
        which the flow has given before are void.

        :raises ValueError: for a gain that is none, or of a flow none of whose layers has such a network
        """
        gain = check_gain(gain, "conditioner_gain")
        if not (conditioners := self.conditioners):
            raise ValueError(
                "A flow without coupling or autoregressive layers, convolutional ones aside, has no conditioner_gain."
            )
        for conditioner in conditioners:
            last: Any = conditioner.linears[-1]
            last.weight *= conditioner.gain / gain
            conditioner.take_gain(gain)

    @property
    def conditioners(self) -> list[Conditioner]:
        """The networks of coupling and autoregressive layers."""
        return [part for part in self.modules() if isinstance(part, Conditioner)]

    @torch.no_grad()
    def set_gaussian(
        self, mean_weight: Tensor, mean_bias: Tensor, log_std_weight: Tensor | None, log_std_bias: Tensor
    ) -> None:
        """Take the mean and log-std of a Gaussian policy's head; a new flow is then that Gaussian.

        :param mean_weight: shape ``(d, context)``
        :param mean_bias: shape ``(d,)``
        :param log_std_weight: shape ``(d, context)``; None: the log-std is the same in every state
        :param log_std_bias: shape ``(d,)``
        """
        d = self.features
        weight, bias = self.context_map.weight, self.context_map.bias
        weight[:d], bias[:d] = mean_weight, mean_bias
        gain = self.context_map.gain if isinstance(self.context_map, ContextMap) else 1.0
        weight[d : 2 * d] = 0.0 if log_std_weight is None else log_std_weight / gain
        bias[d : 2 * d] = log_std_bias

    @torch.no_grad()
    def initialize(self, data: Tensor, context: Tensor | None = None) -> None:
        """Start from data: the mean and log-std first, then each layer that has such a start (`ActNorm`).

        Only when called, on a whole data set or a large batch of it, and before training: a policy's first batch is one
        state. The mean's and the log-std's dependence on the context is left as it is; their biases move.

        :param data: two values or more, shape ``(batch, d)``
        :param context: the context of each, shape ``(batch, context)``; None where the flow is unconditional
        :raises ValueError: if the shapes are others, data are not finite, or the flow is a module of another library
        """
        self._check(context)
        if data.shape[1:] != (self.features,) or len(data) < 2 or (context is not None and len(context) != len(data)):
            given = "none" if context is None else str(tuple(context.shape))
            raise ValueError(
                f"initialize takes data of shape (batch, {self.features}), batch >= 2, and a context for each, got "
                f"{tuple(data.shape)} and {given}."
            )
        if self.is_external:
            raise ValueError("A module of another library has no data-dependent start of this library's.")
        data = data.to(self.context_map.bias)
        if not data.isfinite().all():
            raise ValueError("initialize takes data that are finite, got NaN or infinity.")
        self.warn_if_wider(data)
        mean, log_std, *_ = self._parameters_of(context).split(self._sizes, dim=-1)
        shift_bias, scale_bias, *_ = self.context_map.bias.split(self._sizes)
        residual = data - mean
        shift_bias += residual.mean(0)
        standardized = (residual - residual.mean(0)) * (-soft_clamp(log_std, self.log_std_max)).exp()
        scale_bias += standardized.std(0).clamp_min(MIN_STD).log()
        mean, log_std, *slices = self._parameters_of(context).split(self._sizes, dim=-1)
        y, _ = Affine(mean, soft_clamp(log_std, self.log_std_max)).inverse_and_ladj(data)
        initialize_layers(self._layers(), y, slices)

    def warn_if_wider(self, data: Tensor) -> None:
        """
        Warn of data that the scale of the context alone cannot follow, where no layer takes one of its own from data.

        :param data: shape ``(batch, d)``
        """
        takes_its_own = any(type(layer).initialize is not Layer.initialize for layer in self._layers())
        if self.is_external or takes_its_own or len(data) < 2:  # one row has no deviation
            return
        std, widest = data.std(0).max().item(), math.exp(self.log_std_max)
        if std > widest:
            warnings.warn(
                f"The data's standard deviation is up to {std:.3g}, and the scale that the context gives this flow is "
                f"bounded at about {widest:.3g}: standardise the data, or give the flow "
                f"log_std_max={math.ceil(10 * math.log(std)) / 10}.",
                stacklevel=3,
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Older files hold the layers' orders and masks too, which are rebuilt today, and say foreign for external."""
        for name in [name for name in state_dict if name.startswith(f"{prefix}foreign.")]:
            state_dict[f"{prefix}external{name.removeprefix(f'{prefix}foreign')}"] = state_dict.pop(name)
        saved_today = self.state_dict(prefix=prefix)
        for name, buffer in self.layers.named_buffers(f"{prefix}layers"):
            if name in state_dict and name not in saved_today:
                if not torch.equal(state_dict.pop(name).to(buffer), buffer):
                    raise ValueError(f"{name} of the saved flow is not this flow's: it was built from other options.")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _layers(self) -> Sequence[Layer]:
        return list(self.layers)  # type: ignore[arg-type]

    @torch.no_grad()
    def _reset(self) -> None:
        weights = self.context_map.weight.split(self._sizes)
        biases = self.context_map.bias.split(self._sizes)
        if not self.context:
            nn.init.zeros_(self.context_map.bias)
        for layer, weight, bias in zip(self._layers(), weights[2:], biases[2:], strict=True):
            layer.reset_context(weight, bias)
        if isinstance(self.context_map, ContextMap):
            self.context_map.weight[self.features :] /= self.context_map.gain


class ContextMap(Gained, nn.Linear):
    """
    The linear map of a context, whose output has the batch contiguous: the order in which layers and C read it.

    Files of version 1, which do not say the gain, have the constructor's.

    :param context: size of the context
    :param outputs: size of the output
    :param plain: how many outputs, the first ones, have a gain of one
    :param gain: by what the others' weights, not their biases, are multiplied
    """

    plain = 0  # of one that an earlier version pickled

    def __init__(self, context: int, outputs: int, plain: int, gain: float):
        super().__init__(context, outputs)
        self.plain = plain
        self.start_gain(gain)

    def forward(self, context: Tensor) -> Tensor:
        weight = self.weight
        if self.gain != 1.0:
            weight = torch.cat((weight[: self.plain], self.gain * weight[self.plain :]))
        if context.dim() != 2:
            return nn.functional.linear(context, weight, self.bias)
        return torch.addmm(self.bias.unsqueeze(1), weight, context.t()).t()


class _Bias(nn.Module):
    """The linear map of an empty context: its bias."""

    weight: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(size, 0))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, context: None) -> Tensor:
        return self.bias


def check_log_std_max(bound: Any) -> float:
    """:raises ValueError: for what is no number above `LOG_STD_MIN`"""
    if not (isinstance(bound, Real) and LOG_STD_MIN < float(bound) < math.inf):
        raise ValueError(f"log_std_max must be a number above {LOG_STD_MIN:g}, got {bound!r}.")
    return float(bound)


def soft_clamp(log_std: Tensor, high: float = LOG_STD_MAX) -> Tensor:
    """The log-std itself within bounds, SB3's [-20, 2] by default, and at most one unit beyond them, smoothly.

    SB3 clips there, which stops the gradient; inside the bounds the two agree to the last bit.
    """
    inside = log_std.clamp(LOG_STD_MIN, high)
    return inside + torch.tanh(log_std - inside)


def build_parts(flow: AnyFlow, features: int, context: int, options: dict[str, Any]) -> nn.Module | FlowParts:
    """What a flow is made of, noise to value; see :class:`Flow` for what names it and for what is refused."""
    if isinstance(flow, (Layer, TorchDistributionsTransform)):
        flow = [flow]
    if isinstance(flow, (Sequence, nn.ModuleList)) and not isinstance(flow, str):
        if options:
            raise ValueError(f"A list of transforms takes no options, got {sorted(options)}.")
        # Two flows of one list share no parameters, and training leaves the list alone
        return copy.deepcopy([lasting(part) for part in flow])
    builder = find_flow(flow)
    try:
        parts = builder(features, context, **options)
    except TypeError as error:
        raise ValueError(f"Flow {flow!r} could not be built with options {options}: {error}") from error
    return [parts] if isinstance(parts, (Layer, TorchDistributionsTransform)) else parts


def _as_parameters(module: nn.Module, context: Tensor) -> Tensor:
    """A context that networks under autocast have given, in the precision of a module's parameters."""
    parameter = next(module.parameters(), None)
    return context if parameter is None or not context.is_floating_point() else context.to(parameter.dtype)


def _as_layer(part: Layer | TorchDistributionsTransform) -> Layer:
    if isinstance(part, Layer):
        return part
    if isinstance(part, TorchDistributionsTransform):
        return Constant(as_transform(part))
    raise ValueError(f"A flow is made of flowrl layers and torch.distributions transforms, got {type(part).__name__}.")
