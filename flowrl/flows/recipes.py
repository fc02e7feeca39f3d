"""Flows by name: each recipe is a list of layers, and `register_flow` adds one of your own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from torch import nn
from torch.distributions.transforms import Transform as TorchDistributionsTransform

from flowrl.flows.images import waveglow
from flowrl.flows.options import checked_options
from flowrl.layers import (
    ActNorm,
    AffineBijector,
    AutoregressiveLayer,
    ContinuousLayer,
    CouplingLayer,
    Elementwise,
    GatedBijector,
    InvertibleLinear,
    Layer,
    LowRankShearLayer,
    PlanarLayer,
    RadialLayer,
    ShearLayer,
    Shuffle,
    SigmoidalBijector,
    SplineBijector,
)
from flowrl.layers.bijectors import Bijector

FlowParts = Sequence[Layer | TorchDistributionsTransform]
Builder = Callable[..., "nn.Module | FlowParts"]
"""``builder(features, context, **options)`` -> layers and transforms (noise to action), or a module whose
``module(context)`` returns a distribution with ``log_prob`` and ``rsample``."""

AnyFlow = str | Builder | FlowParts
"""What names a flow: a recipe's name, a builder, or the layers and transforms themselves."""

DEFAULT_FLOW = "triangular"
HIDDEN = (64, 64)


@checked_options
def triangular(
    features: int, context: int, layers: int = 1, bins: int = 8, bound: float = 4.0, rank: int | None = None
) -> FlowParts:
    """Splines and shears whose parameters come from the state alone: no network in either direction.

    A shear has d (d - 1) / 2 parameters, one of low ``rank`` 2 d rank: for many features.
    """
    parts: list[Layer] = []
    for i in range(layers):
        upper = i % 2 == 1
        shear = ShearLayer(features, upper) if rank is None else LowRankShearLayer(features, rank, upper)
        parts += [Elementwise(features, SplineBijector(bins, bound)), shear]
    return parts


@checked_options
def gaussian(features: int, context: int) -> FlowParts:
    """No layers: a Gaussian of independent features, the flow agents' own baseline in the same code."""
    return []


@checked_options
def affine(features: int, context: int) -> FlowParts:
    """One shear before the mean and scale: a Gaussian with full covariance given the state."""
    return [ShearLayer(features)]


@checked_options
def realnvp(features: int, context: int, layers: int = 4, hidden: Sequence[int] = HIDDEN) -> FlowParts:
    """Affine coupling (Dinh et al. 2017)."""
    return _couplings(features, AffineBijector(), layers, hidden)


@checked_options
def nsf(
    features: int,
    context: int,
    layers: int = 2,
    bins: int = 8,
    bound: float = 4.0,
    hidden: Sequence[int] = HIDDEN,
) -> FlowParts:
    """Rational-quadratic spline coupling (Durkan et al. 2019)."""
    return _couplings(features, SplineBijector(bins, bound), layers, hidden)


@checked_options
def nsf_ar(
    features: int,
    context: int,
    layers: int = 2,
    bins: int = 8,
    bound: float = 4.0,
    hidden: Sequence[int] = HIDDEN,
    fast_sampling: bool = False,
) -> FlowParts:
    """Autoregressive rational-quadratic splines (Durkan et al. 2019, RQ-NSF (AR)).

    As in the paper, the log-prob takes one pass, which PPO and fits to data ask for, and sampling d; the other way
    around where ``fast_sampling``, for SAC and variational fits.
    """
    return _autoregressive(features, SplineBijector(bins, bound), layers, hidden, fast_sampling)


@checked_options
def maf(features: int, context: int, layers: int = 2, hidden: Sequence[int] = HIDDEN) -> FlowParts:
    """Masked autoregressive flow (Papamakarios et al. 2017): fast log-prob, sampling in d passes."""
    return _autoregressive(features, AffineBijector(), layers, hidden, fast_sampling=False)


@checked_options
def iaf(features: int, context: int, layers: int = 2, hidden: Sequence[int] = HIDDEN, gated: bool = False) -> FlowParts:
    """Inverse autoregressive flow (Kingma et al. 2016): fast sampling, log-prob of a given action in d passes.

    ``gated``: the paper's LSTM-like update, for the posteriors of variational inference; it contracts at will, but
    expands by at most 1.14 a layer.
    """
    bijector = GatedBijector() if gated else AffineBijector()
    return _autoregressive(features, bijector, layers, hidden, fast_sampling=True)


@checked_options
def naf(
    features: int,
    context: int,
    layers: int = 2,
    units: int = 8,
    hidden: Sequence[int] = HIDDEN,
    fast_sampling: bool = False,
) -> FlowParts:
    """Neural autoregressive flow with deep sigmoidal maps (Huang et al. 2018): several modes, on all of R.

    As `maf`, with the log-prob in one pass and d root findings to sample; as `iaf` where ``fast_sampling``.
    """
    bijector = SigmoidalBijector(units)
    if features == 1:
        return [Elementwise(features, bijector, inverse=not fast_sampling) for _ in range(layers)]
    return [AutoregressiveLayer(features, bijector, i, hidden, fast_sampling) for i in range(layers)]


@checked_options
def planar(features: int, context: int, layers: int = 4) -> FlowParts:
    """Planar maps (Rezende and Mohamed 2015)."""
    return [PlanarLayer(features, i) for i in range(layers)]


@checked_options
def radial(features: int, context: int, layers: int = 4) -> FlowParts:
    """Radial maps (Rezende and Mohamed 2015)."""
    return [RadialLayer(features) for _ in range(layers)]


@checked_options
def glow(features: int, context: int, layers: int = 3, hidden: Sequence[int] = HIDDEN) -> FlowParts:
    """Glow's step for vectors (Kingma and Dhariwal 2018): activation norm, invertible linear map, affine coupling."""
    parts: list[Layer] = []
    for i, coupling in enumerate(_couplings(features, AffineBijector(), layers, hidden)):
        parts += [ActNorm(features), Shuffle(features, seed=i), InvertibleLinear(features), coupling]
    return parts


@checked_options
def ffjord(
    features: int,
    context: int,
    layers: int = 1,
    hidden: Sequence[int] = HIDDEN,
    steps: int = 12,
    solver: str = "rk4",
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> FlowParts:
    """Continuous flow (Grathwohl et al. 2019) with the exact trace; its log-prob is exact up to O(steps^-4).

    ``solver="dopri5"`` adapts its steps to the tolerances instead (needs torchdiffeq).
    """
    return [ContinuousLayer(features, hidden, steps, solver, rtol, atol) for _ in range(layers)]


# With one feature there is nothing to condition on: the context alone moves it, and no network is needed.


def _couplings(features: int, bijector: Bijector, layers: int, hidden: Sequence[int]) -> list[Layer]:
    if features == 1:
        return [Elementwise(features, bijector) for _ in range(layers)]
    return [CouplingLayer(features, bijector, i, hidden) for i in range(layers)]


def _autoregressive(
    features: int, bijector: Bijector, layers: int, hidden: Sequence[int], fast_sampling: bool
) -> list[Layer]:
    if features == 1:
        return [Elementwise(features, bijector) for _ in range(layers)]
    return [AutoregressiveLayer(features, bijector, i, hidden, fast_sampling) for i in range(layers)]


_RECIPES: dict[str, Builder] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        triangular,
        gaussian,
        affine,
        realnvp,
        nsf,
        nsf_ar,
        maf,
        iaf,
        naf,
        planar,
        radial,
        glow,
        waveglow,
        ffjord,
    )
}


def register_flow(name: str, builder: Builder) -> None:
    """Add a recipe that `Flow(..., flow=name)` and ``policy_kwargs=dict(flow=name)`` then find.

    :param name: its name; an existing one is replaced
    :param builder: ``builder(features, context, **options)``, see :data:`Builder`
    """
    if not callable(builder):
        raise ValueError(
            f"The builder of flow {name!r} must be callable as builder(features, context), got {builder!r}."
        )
    _RECIPES[name] = builder


def available_flows() -> list[str]:
    """Names of all recipes, your own included."""
    return list(_RECIPES)


def find_flow(flow: str | Builder) -> Builder:
    """The builder of this name; a builder is returned as it is.

    :raises ValueError: for an unknown name, with the nearest ones
    """
    if not isinstance(flow, str):
        if not callable(flow):
            raise ValueError(f"flow must be a name or a builder(features, context), got {flow!r}.")
        return flow
    if flow not in _RECIPES:
        near = difflib.get_close_matches(flow, _RECIPES, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"Unknown flow {flow!r}.{hint} Available: {', '.join(_RECIPES)}; add one with flowrl.register_flow."
        )
    return _RECIPES[flow]
