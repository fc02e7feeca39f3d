"""Other libraries as oracles: with the same constrained parameters, the same values and log-determinants to 1e-8."""

import math

import pytest
import torch

from flowrl import Flow
from flowrl.flows.flow import soft_clamp
from flowrl.layers import GatedBijector, Grid
from flowrl.transforms import Affine, Compose, LULinear, Permutation, Planar, Pointwise, Radial, RationalQuadraticSpline
from flowrl.transforms.spline import RAW_LIMIT
from tests.models import perturb


def test_spline_agrees_with_zuko():
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e .[dev]")
    torch.manual_seed(0)
    bins, bound = 8, 5.0
    raw = torch.randn(50, 2, 3 * bins - 1, dtype=torch.float64).split((bins, bins, bins - 1), dim=-1)
    theirs = zuko.transforms.MonotonicRQSTransform(*raw, bound=bound)
    # The raw numbers of which these knots are made: only ratios of widths and of heights count.
    sizes = [ends.diff(dim=-1) for ends in (theirs.horizontal, theirs.vertical)]
    positive = torch.cat([size / size.log().mean(-1, keepdim=True).exp() for size in sizes], dim=-1)
    log_positive = torch.cat((positive, theirs.derivatives[..., 1:-1]), dim=-1).log()
    ours = RationalQuadraticSpline(log_positive / (1 - (log_positive / RAW_LIMIT).square()).sqrt(), bound)
    x = 6 * torch.randn(50, 2, dtype=torch.float64)
    y, ladj = ours.call_and_ladj(x)
    their_y, their_ladj = theirs.call_and_ladj(x)
    torch.testing.assert_close(y, their_y, atol=1e-8, rtol=0)
    torch.testing.assert_close(ladj, their_ladj.sum(-1), atol=1e-8, rtol=0)
    torch.testing.assert_close(ours.inverse_and_ladj(their_y)[0], theirs.inv(their_y), atol=1e-8, rtol=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fast_sampling", [False, True])
def test_autoregressive_splines_agree_with_zuko(fast_sampling):
    """Zuko's loop over the features and its spline, with the knots that our networks give."""
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e .[dev]")
    flow = Flow(3, 2, "nsf-ar", layers=1, hidden=(16, 16), bins=5, fast_sampling=fast_sampling)
    perturb(flow, 0.5)
    parameters = flow.context_map(torch.randn(20, 2))
    mean, log_std, context = parameters.split((3, 3, 16), dim=-1)
    (layer,) = flow.layers

    def spline(x):
        theirs = zuko.transforms.MonotonicRQSTransform(*torch.zeros(3, 1, 4).split((1, 1, 1)), bound=4.0)
        knots = layer.conditioner(x, context).knots
        theirs.horizontal, theirs.vertical, theirs.derivatives = knots.unbind(-2)
        return zuko.transforms.DependentTransform(theirs, 1)

    theirs = zuko.transforms.AutoregressiveTransform(spline, passes=3)
    z = torch.randn(20, 3)
    moved, ladj = (theirs if fast_sampling else theirs.inv).call_and_ladj(z[:, layer.order])
    x, our_ladj = flow.from_parameters(parameters).transform.call_and_ladj(z)
    torch.testing.assert_close(x, mean + soft_clamp(log_std).exp() * moved, atol=1e-8, rtol=0)
    torch.testing.assert_close(our_ladj, ladj + soft_clamp(log_std).sum(-1), atol=1e-8, rtol=0)


def test_planar_agrees_with_normflows():
    normflows = pytest.importorskip("normflows", reason="normflows is a development dependency")
    torch.manual_seed(0)
    theirs = normflows.flows.Planar((3,)).double()
    with torch.no_grad():
        theirs.w.normal_()
        theirs.u.normal_()
        theirs.b.normal_()
        dot = (theirs.w * theirs.u).sum()
        u = theirs.u + (torch.log1p(dot.exp()) - 1 - dot) * theirs.w / theirs.w.square().sum()
        x = torch.randn(50, 3, dtype=torch.float64)
        their_y, their_ladj = theirs(x)
        y, ladj = Planar(theirs.w[0], u[0], theirs.b[0]).call_and_ladj(x)
    torch.testing.assert_close(y, their_y, atol=1e-8, rtol=0)
    torch.testing.assert_close(ladj, their_ladj, atol=1e-8, rtol=0)


def test_radial_agrees_with_normflows():
    normflows = pytest.importorskip("normflows", reason="normflows is a development dependency")
    torch.manual_seed(0)
    theirs = normflows.flows.Radial((3,)).double()
    with torch.no_grad():
        theirs.alpha.fill_(0.8)
        theirs.beta.fill_(1.3)
        alpha = theirs.alpha.abs()
        gamma = torch.log1p(theirs.beta.exp())  # their beta = -alpha + softplus(raw)
        x = torch.randn(50, 3, dtype=torch.float64)
        their_y, their_ladj = theirs(x)
        y, ladj = Radial(theirs.z_0[0], alpha[0], gamma[0]).call_and_ladj(x)
    torch.testing.assert_close(y, their_y, atol=1e-8, rtol=0)
    torch.testing.assert_close(ladj, their_ladj, atol=1e-8, rtol=0)


def test_1x1_convolution_agrees_with_nflows():
    nflows = pytest.importorskip("nflows.transforms", reason="nflows comes with the extra 'benchmark'")
    torch.manual_seed(0)
    theirs = nflows.OneByOneConvolution(3, identity_init=False).double()
    with torch.no_grad():
        theirs.bias.normal_()
        lower, upper = theirs._create_lower_upper()
        steps = [
            Permutation(theirs.permutation._permutation),
            LULinear(lower, upper),
            Affine(theirs.bias, torch.zeros(3).double()),
        ]
        x = torch.randn(50, 4, 5, 3, dtype=torch.float64)
        their_y, their_ladj = theirs(x.movedim(-1, 1))
        y, ladj = Pointwise(Compose(steps), 3).call_and_ladj(x.flatten(1))
        back, _ = Pointwise(Compose(steps), 3).inverse_and_ladj(y)
    torch.testing.assert_close(y, their_y.movedim(1, -1).flatten(1), atol=1e-8, rtol=0)
    torch.testing.assert_close(ladj, their_ladj, atol=1e-8, rtol=0)
    torch.testing.assert_close(back, x.flatten(1), atol=1e-8, rtol=0)


def test_squeeze_agrees_with_nflows():
    nflows = pytest.importorskip("nflows.transforms", reason="nflows comes with the extra 'benchmark'")
    height, width, channels = 4, 6, 3
    grid = Grid((height, width), channels)
    image = torch.randn(1, height, width, channels)
    ours = image.flatten()[grid.squeeze_order()].unflatten(0, (*grid.squeezed().sides, 4, channels))
    theirs = nflows.SqueezeTransform()(image.movedim(-1, 1))[0][0]
    # They put the old channel before the place in the block of four, we after it.
    torch.testing.assert_close(ours.movedim((-1, -2), (0, 1)).flatten(0, 1), theirs)


def test_gate_is_the_lstm_update_of_inverse_autoregressive_flow():
    """Kingma et al. 2016, eq. 13 and 14: z' = sigma z + (1 - sigma) m, here over the initial gate sigma(2)."""
    torch.manual_seed(0)
    m, s, z = torch.randn(3, 50, 4, dtype=torch.float64)
    y, ladj = GatedBijector()(torch.stack((m, s), -1)).call_and_ladj(z)
    gate, initial = torch.sigmoid(2 + 5 * torch.tanh(s / 5)), 1 / (1 + math.exp(-2))
    torch.testing.assert_close(initial * y, gate * z + (1 - gate) * m)
    torch.testing.assert_close(ladj, gate.log().sum(-1) - 4 * math.log(initial))


def test_gate_never_closes():
    raw = torch.tensor([[[1e6, -1e6]], [[1e6, 1e6]]], requires_grad=True)
    y, ladj = GatedBijector()(raw).call_and_ladj(torch.ones(2, 1))
    assert (ladj.exp() > 0.05).all() and (ladj.exp() < 1.14).all() and y.isfinite().all()
