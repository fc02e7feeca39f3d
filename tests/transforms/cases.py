"""All transforms, made from their layers: a new layer in this list joins every exactness test."""

from collections.abc import Callable

import torch
from torch import Tensor

from flowrl.layers import (
    ActNorm,
    AffineBijector,
    AutoregressiveLayer,
    Constant,
    ContinuousLayer,
    CouplingLayer,
    Elementwise,
    GatedBijector,
    InvertibleLinear,
    Layer,
    PlanarLayer,
    RadialLayer,
    ShearLayer,
    Shuffle,
    SigmoidalBijector,
    SplineBijector,
)
from flowrl.transforms import Compose, Inverse, TanhBox, TorchTransform, Transform

DIMENSIONS = (1, 2, 3, 17)
HIDDEN = (16, 16)


def _box(d: int) -> TanhBox:
    low = -torch.arange(1.0, d + 1, dtype=torch.get_default_dtype())
    return TanhBox(low, 2 - 3 * low)


LAYERS: dict[str, Callable[[int], Layer]] = {
    "affine": lambda d: Elementwise(d, AffineBijector()),
    "gate": lambda d: Elementwise(d, GatedBijector()),
    "spline": lambda d: Elementwise(d, SplineBijector()),
    "sigmoidal": lambda d: Elementwise(d, SigmoidalBijector(3)),
    "inverse sigmoidal": lambda d: Elementwise(d, SigmoidalBijector(3), inverse=True),
    "lower shear": lambda d: ShearLayer(d),
    "upper shear": lambda d: ShearLayer(d, upper=True),
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
    (name, d) for name in LAYERS for d in DIMENSIONS if d > 1 or "coupling" not in name
]  # a coupling of one feature has nothing to condition on


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
