"""All transforms, made from their layers: a new layer in this list joins every exactness test."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from flowrl.layers import (
    ActNorm,
    AffineBijector,
    AutoregressiveLayer,
    Constant,
    ContinuousLayer,
    ConvolutionalCoupling,
    CouplingLayer,
    DilatedNetwork,
    Elementwise,
    GatedBijector,
    Grid,
    ImageNetwork,
    InvertibleLinear,
    Layer,
    LowRankShearLayer,
    PlanarLayer,
    PointwiseLayer,
    RadialLayer,
    Reorder,
    ShearLayer,
    Shuffle,
    SigmoidalBijector,
    SplineBijector,
    SplitLayer,
)
from flowrl.transforms import Compose, Inverse, TanhBox, TorchTransform, Transform

DIMENSIONS = (1, 2, 3, 17)
GRID_DIMENSIONS = (4, 24)  # flattened sizes of grids of 2 channels
HIDDEN = (16, 16)


def _box(d: int) -> TanhBox:
    low = -torch.arange(1.0, d + 1, dtype=torch.get_default_dtype())
    return TanhBox(low, 2 - 3 * low)


def _chunk(d: int) -> Grid:
    return Grid((d // 2,), 2)


def _image(d: int) -> Grid:
    return Grid((2, d // 4), 2)


_dilated = partial(DilatedNetwork, width=4, blocks=3)
_spatial = partial(ImageNetwork, width=8)


def _split(d: int) -> Layer:
    coupling = ConvolutionalCoupling(Grid((d // 4,), 2), AffineBijector(), 1, _dilated)
    return SplitLayer(d // 2, [PointwiseLayer(InvertibleLinear(2), 2), coupling, Elementwise(d // 2, AffineBijector())])


LAYERS: dict[str, Callable[[int], Layer]] = {
    "affine": lambda d: Elementwise(d, AffineBijector()),
    "gate": lambda d: Elementwise(d, GatedBijector()),
    "spline": lambda d: Elementwise(d, SplineBijector()),
    "sigmoidal": lambda d: Elementwise(d, SigmoidalBijector(3)),
    "inverse sigmoidal": lambda d: Elementwise(d, SigmoidalBijector(3), inverse=True),
    "lower shear": lambda d: ShearLayer(d),
    "upper shear": lambda d: ShearLayer(d, upper=True),
    "lower shear of low rank": lambda d: LowRankShearLayer(d, 2),
    "upper shear of low rank": lambda d: LowRankShearLayer(d, 3, upper=True),
    "lu linear": InvertibleLinear,
    "act norm": ActNorm,
    "permutation": lambda d: Shuffle(d, seed=1),
    "affine coupling": lambda d: CouplingLayer(d, AffineBijector(), 1, HIDDEN),
    "spline coupling": lambda d: CouplingLayer(d, SplineBijector(), 0, HIDDEN),
    "affine maf": lambda d: AutoregressiveLayer(d, AffineBijector(), 0, HIDDEN, fast_sampling=False),
    "spline maf": lambda d: AutoregressiveLayer(d, SplineBijector(), 1, HIDDEN, fast_sampling=False),
    "affine iaf": lambda d: AutoregressiveLayer(d, AffineBijector(), 1, HIDDEN, fast_sampling=True),
    "gated iaf": lambda d: AutoregressiveLayer(d, GatedBijector(), 1, HIDDEN, fast_sampling=True),
    "spline iaf": lambda d: AutoregressiveLayer(d, SplineBijector(), 0, HIDDEN, fast_sampling=True),
    "grid, 1x1 convolution": lambda d: PointwiseLayer(InvertibleLinear(2), 2),
    "grid, act norm": lambda d: PointwiseLayer(ActNorm(2), 2),
    "grid, one spline of the context for all positions": lambda d: PointwiseLayer(Elementwise(2, SplineBijector()), 2),
    "grid, one shear of the context for all positions": lambda d: PointwiseLayer(ShearLayer(2), 2),
    "grid, squeeze in two dimensions": lambda d: Reorder(Grid((2, d // 2), 1).squeeze_order()),
    "grid, affine coupling in time": lambda d: ConvolutionalCoupling(_chunk(d), AffineBijector(), 0, _dilated),
    "grid, spline coupling in time": lambda d: ConvolutionalCoupling(_chunk(d), SplineBijector(), 1, _dilated),
    "grid, affine coupling in space": lambda d: ConvolutionalCoupling(_image(d), AffineBijector(), 1, _spatial),
    "grid, spline coupling in space": lambda d: ConvolutionalCoupling(_image(d), SplineBijector(), 0, _spatial),
    "grid, split": _split,
    "sigmoidal maf": lambda d: AutoregressiveLayer(d, SigmoidalBijector(2), 0, HIDDEN, fast_sampling=False),
    "sigmoidal iaf": lambda d: AutoregressiveLayer(d, SigmoidalBijector(2), 1, HIDDEN, fast_sampling=True),
    "planar": lambda d: PlanarLayer(d, 0),
    "radial": RadialLayer,
    # The solver's error falls as steps^-4: so many, of a small field, reach the tolerances of exact transforms
    "continuous": lambda d: ContinuousLayer(d, (4, 4), steps=24),
    "tanh": lambda d: Constant(TanhBox()),
    "tanh onto a box": lambda d: Constant(_box(d)),
    "torch elementwise": lambda d: Constant(TorchTransform(torch.distributions.AffineTransform(1.0, -2.0))),
}
CASES = [
    (name, d)
    for name in LAYERS
    for d in (GRID_DIMENSIONS if name.startswith("grid") else DIMENSIONS)
    if d > 1 or "coupling" not in name  # a coupling of one feature has nothing to condition on
]


def make_layer(name: str, d: int, spread: float) -> tuple[Layer, Tensor]:
    """A layer whose own parameters are ``spread`` away from their start, and such a slice of the context map."""
    layer = LAYERS[name](d)
    context = torch.zeros(layer.context_size)
    layer.reset_context(torch.zeros(layer.context_size, 0), context)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += spread * torch.randn_like(parameter)
    return layer, context + spread * torch.randn(6, layer.context_size)


def make_transform(name: str, d: int, spread: float) -> Transform:
    """The transform of :func:`make_layer`, for a batch of 6 contexts."""
    layer, parameters = make_layer(name, d, spread)
    return layer(parameters)


def compose_with_inverse(transform: Transform) -> Transform:
    """There and back: the identity, through both passes of the transform."""
    return Compose([transform, Inverse(transform)])
