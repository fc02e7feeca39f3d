"""Flows of other libraries as their users build them: what `flowrl.register_flow` is given in the tests."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, Transform


def zuko_nsf(features: int, context: int) -> nn.Module:
    """zuko's neural spline flow."""
    zuko = pytest.importorskip("zuko", reason="zuko is an optional adapter, not a dependency")
    return zuko.flows.NSF(features, context, transforms=1, hidden_features=(16,))


def nflows_transform(features: int, context: int) -> Any:
    """A transform of nflows: a masked autoregressive spline and a permutation."""
    transforms = pytest.importorskip("nflows.transforms", reason="nflows is not installed")
    spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        *(features, 16, context or None), num_blocks=1, num_bins=4, tails="linear", tail_bound=3.0
    )
    return transforms.CompositeTransform([spline, transforms.ReversePermutation(features)])


def nflows_flow(features: int, context: int) -> Any:
    """A flow of nflows: a Gaussian of the context through a masked affine autoregressive transform."""
    transforms = pytest.importorskip("nflows.transforms", reason="nflows is not installed")
    from nflows.distributions import ConditionalDiagonalNormal
    from nflows.flows import Flow

    maf = transforms.MaskedAffineAutoregressiveTransform(features, 16, context or None, num_blocks=1)
    encoder = nn.Linear(context, 2 * features)
    return Flow(maf, ConditionalDiagonalNormal((features,), encoder))


def normflows_flows(features: int, context: int) -> list[Any]:
    """A list of normflows' flows."""
    normflows = pytest.importorskip("normflows", reason="normflows is not installed")
    spline = normflows.flows.AutoregressiveRationalQuadraticSpline(
        features, 1, 16, num_context_channels=context or None, num_bins=4
    )
    return [spline, normflows.flows.LULinearPermute(features)]


def normflows_conditional(features: int, context: int) -> Any:
    """A conditional model of normflows, base and flows."""
    normflows = pytest.importorskip("normflows", reason="normflows is not installed")
    base = normflows.distributions.base.ConditionalDiagGaussian(features, nn.Linear(context, 2 * features))
    flow = normflows.flows.MaskedAffineAutoregressive(features, 16, context_features=context, num_blocks=1)
    return normflows.ConditionalNormalizingFlow(base, [flow])


def normflows_unconditional(features: int, context: int) -> Any:
    """A model of normflows that knows no context."""
    normflows = pytest.importorskip("normflows", reason="normflows is not installed")
    spline = normflows.flows.AutoregressiveRationalQuadraticSpline(features, 1, 16, num_bins=4)
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features), [spline])


class Arcsinh(Transform):
    """y = arcsinh(sinh(x) + shift) elementwise: a bijection of the line with a parameter."""

    domain = codomain = torch.distributions.constraints.real
    bijective = True

    def __init__(self, shift: Tensor):
        super().__init__()
        self.shift = shift

    def _call(self, x: Tensor) -> Tensor:
        return torch.asinh(torch.sinh(x) + self.shift)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.asinh(torch.sinh(y) - self.shift)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.log(torch.cosh(x)) - torch.log(torch.cosh(y))


def torch_transformed(features: int, context: int) -> TransformedDistribution:
    """A distribution of torch's own whose base and transforms have parameters."""
    base = Independent(Normal(nn.Parameter(torch.zeros(features)), torch.ones(features)), 1)
    scale = nn.Parameter(torch.linspace(0.8, 1.2, features))
    return TransformedDistribution(base, [AffineTransform(0.0, scale), Arcsinh(nn.Parameter(torch.zeros(features)))])


EXTERNAL = {
    builder.__name__.replace("_", "-"): builder
    for builder in (
        *(zuko_nsf, nflows_transform, nflows_flow, normflows_flows, normflows_conditional, normflows_unconditional),
        torch_transformed,
    )
}
