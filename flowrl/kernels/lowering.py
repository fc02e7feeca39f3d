"""Lowering: the layers of a flow, by their types, as the steps that the C kernel knows."""

from functools import singledispatch
from typing import Any, NamedTuple

from torch import Tensor, nn

from flowrl.kernels.structures import constant, enumeration
from flowrl.layers import AffineBijector, CouplingLayer, Elementwise, ShearLayer, SplineBijector
from flowrl.layers.bijectors import LOG_SCALE_LIMIT
from flowrl.layers.linear import LowRankShearLayer

KINDS = enumeration("StepKind")
MAX_BINS, MAX_RANK = constant("MAX_BINS"), constant("MAX_RANK")


class Step(NamedTuple):
    """One step of a flow.

    :param kind: which
    :param offset: its first column of the parameters
    :param option: a spline's number of bins; whether a shear is upper triangular, and
        one of low rank its rank, negative if upper; whether a squash comes later: x is
        then that before it, and the density that after it
    :param bound: a spline acts on [-bound, bound]; an affine coupling's log-scale lies in (-bound, bound)
    :param keep: a coupling's features that condition
    :param change: and those that move
    :param widths: of the layers of a coupling's network, two or more
    :param gain: of that network's last weights
    """

    kind: int
    offset: int
    option: int = 0
    bound: float = 0.0
    keep: tuple[int, ...] = ()
    change: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    gain: float = 1.0


@singledispatch
def lower(layer: nn.Module, offset: int) -> Step | None:
    """
    A layer as a step.

    :param layer: of any type: register one here to give it a step
    :param offset: its first column of the context map
    :return: None where the kernel has no such step
    """
    return None


@lower.register
def _(layer: ShearLayer, offset: int) -> Step | None:
    return Step(KINDS["SHEAR"], offset, int(layer.upper)) if type(layer) is ShearLayer else None


@lower.register
def _(layer: LowRankShearLayer, offset: int) -> Step | None:
    if type(layer) is not LowRankShearLayer or layer.rank > MAX_RANK:
        return None
    return Step(KINDS["LOW_RANK_SHEAR"], offset, -layer.rank if layer.upper else layer.rank)


@lower.register
def _(layer: Elementwise, offset: int) -> Step | None:
    spline: Any = layer.bijector
    if type(layer) is not Elementwise or layer.inverse or not _is_spline(spline):
        return None
    return Step(KINDS["SPLINE"], offset, spline.bins, spline.bound)


@lower.register
def _(layer: CouplingLayer, offset: int) -> Step | None:
    bijector: Any = layer.conditioner.bijector
    gain = layer.conditioner.gain
    linears = list(layer.conditioner.linears)
    if type(layer) is not CouplingLayer or {type(linear) for linear in linears} != {nn.Linear}:
        return None
    widths = tuple(int(linear.out_features) for linear in linears)  # type: ignore[arg-type]
    features = tuple(layer.keep.tolist()), tuple(layer.change.tolist())
    if type(bijector) is AffineBijector:
        return Step(KINDS["AFFINE_COUPLING"], offset, 0, LOG_SCALE_LIMIT, *features, widths, gain)
    if _is_spline(bijector):
        return Step(KINDS["SPLINE_COUPLING"], offset, bijector.bins, bijector.bound, *features, widths, gain)
    return None


def network_weights(layer: nn.Module) -> list[Tensor]:
    """The weights of a coupling's network in the kernel's order: the first layer's bias is the context's."""
    if not isinstance(layer, CouplingLayer):
        return []
    first, *others = layer.conditioner.linears
    return [first.weight, *(tensor for linear in others for tensor in (linear.weight, linear.bias))]  # type: ignore


def _is_spline(bijector: object) -> bool:
    return type(bijector) is SplineBijector and bijector.bins <= MAX_BINS
