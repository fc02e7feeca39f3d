"""The multi-scale architecture of Glow on a grid (Kingma and Dhariwal 2018, section 3 and figure 2).

From the data to the noise, each scale squeezes, takes steps of flow (activation normalisation, invertible 1x1
convolution, coupling), and lets half of the channels leave; the other half goes on to the next scale.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from flowrl.flows.options import checked_options
from flowrl.layers import (
    ActNorm,
    AffineBijector,
    ConvolutionalCoupling,
    DilatedNetwork,
    Elementwise,
    Grid,
    ImageNetwork,
    InvertibleLinear,
    Layer,
    PointwiseLayer,
    Reorder,
    SplineBijector,
    SplitLayer,
)
from flowrl.layers.bijectors import Bijector

BIJECTORS = ("affine", "spline")


@checked_options
def waveglow(
    features: int,
    context: int,
    horizon: int = 1,
    coupling: str = "affine",
    scales: int = 2,
    steps: int = 2,
    width: int = 32,
    blocks: int = 2,
    bins: int = 8,
    bound: float = 4.0,
) -> list[Layer]:
    """WaveGlow (Prenger et al. 2019) for chunks of ``horizon`` actions, flattened step by step.

    Any horizon will do: what cannot be folded in pairs of steps is left as it is (see :meth:`Grid.squeezed`).

    :param features: horizon times the dimension of one action
    :param context: dimension of the context
    :param horizon: number of steps of a chunk
    :param coupling: ``"affine"`` or ``"spline"``
    :param scales: number of scales; after each but the last, half of the channels leave
    :param steps: steps of flow at each scale
    :param width: hidden channels of each coupling's network
    :param blocks: gated blocks of each coupling's network, of dilations 1, 2, 4, ...
    :param bins: of a spline
    :param bound: of a spline
    :raises ValueError: if the horizon does not divide the features, or an option is not as said above
    """
    if features % horizon:
        raise ValueError(
            f"horizon must be a number of steps that divides the {features} features of a chunk, got {horizon}."
        )
    network = partial(DilatedNetwork, width=width, blocks=blocks)
    bijector = _bijector(coupling, bins, bound)
    return _multiscale(Grid((horizon,), features // horizon), bijector, network, scales, steps)


@checked_options
def image_glow(
    features: int,
    context: int,
    shape: tuple[int, int, int],
    coupling: str = "affine",
    scales: int = 2,
    steps: int = 4,
    width: int = 64,
    bins: int = 8,
    bound: float = 4.0,
) -> list[Layer]:
    """Glow (Kingma and Dhariwal 2018) for images, flattened row by row: ``Flow(64, flow=image_glow, shape=(8, 8, 1))``.

    :param features: height times width times channels
    :param context: dimension of the context
    :param shape: ``(height, width, channels)``
    :param coupling: ``"affine"`` or ``"spline"``
    :param scales: number of scales; after each but the last, half of the channels leave
    :param steps: steps of flow at each scale
    :param width: hidden channels of each coupling's network
    :param bins: of a spline
    :param bound: of a spline
    :raises ValueError: if the shape has another number of features, or an option is not as said above
    """
    *sides, channels = shape
    grid = Grid(tuple(sides), channels)
    if len(sides) != 2 or min(shape) < 1 or grid.features != features:
        raise ValueError(f"shape must be (height, width, channels) with product features={features}, got {shape}.")
    return _multiscale(grid, _bijector(coupling, bins, bound), partial(ImageNetwork, width=width), scales, steps)


def _multiscale(
    grid: Grid, bijector: Bijector, network: Callable[..., object], scales: int, steps: int, index: int = 0
) -> list[Layer]:
    """Layers from noise to data, hence last scale first; ``index`` counts the couplings, from the data's side."""
    squeezed = grid.squeezed()
    if squeezed.channels == 1:  # a single feature: nothing to condition on, the context alone moves it
        return [Elementwise(grid.features, bijector) for _ in range(steps)]
    layers: list[Layer] = []
    deeper = Grid(squeezed.sides, (squeezed.channels + 1) // 2)
    if scales > 1 and deeper.squeezed().channels > 1:
        inner = _multiscale(deeper, bijector, network, scales - 1, steps, index + steps)
        layers += [SplitLayer(deeper.features, inner), *_reorder(squeezed.split_order(deeper.channels))]
    for i in reversed(range(steps)):
        layers += [
            ConvolutionalCoupling(squeezed, bijector, index + i, network),
            PointwiseLayer(InvertibleLinear(squeezed.channels), squeezed.channels),
            PointwiseLayer(ActNorm(squeezed.channels), squeezed.channels),
        ]
    return layers + _reorder(torch.argsort(grid.squeeze_order()))


def _reorder(order: torch.Tensor) -> list[Layer]:
    return [] if order.equal(torch.arange(len(order))) else [Reorder(order)]


def _bijector(coupling: str, bins: int, bound: float) -> Bijector:
    if coupling not in BIJECTORS:
        raise ValueError(f"coupling must be one of {', '.join(map(repr, BIJECTORS))}, got {coupling!r}.")
    return AffineBijector() if coupling == "affine" else SplineBijector(bins, bound)
