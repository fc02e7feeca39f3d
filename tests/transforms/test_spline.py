"""The rational-quadratic spline where it is delicate: at knots, at the bounds, far outside, at any raw parameters."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from flowrl.transforms import RationalQuadraticSpline

BOUND, BINS = 4.0, 8


def random_spline(dtype: torch.dtype, spread: float = 1.0) -> RationalQuadraticSpline:
    raw = spread * torch.randn(3, 3 * BINS - 1, dtype=dtype)
    return RationalQuadraticSpline(raw, BOUND)


def test_zero_parameters_are_the_identity():
    spline = RationalQuadraticSpline(torch.zeros(1, 3 * BINS - 1), BOUND)
    x = torch.linspace(-6, 6, 1001).unsqueeze(-1)
    y, ladj = spline.call_and_ladj(x)
    torch.testing.assert_close(y, x, atol=2e-6, rtol=0)
    torch.testing.assert_close(ladj, torch.zeros(1001), atol=2e-6, rtol=0)
    assert torch.equal(spline.knots[0, 2], torch.ones(BINS + 1)), "slope 1 at every knot"


@pytest.mark.parametrize("seed", range(3))
def test_float32_round_trip_at_and_next_to_the_knots(seed):
    torch.manual_seed(seed)
    spline = random_spline(torch.float32)
    at = spline.knots[:, 0].T  # (K + 1, 3): each feature at each of its own knots
    infinity = torch.tensor(torch.inf)
    for x in (at, torch.nextafter(at, infinity), torch.nextafter(at, -infinity)):
        y, ladj = spline.call_and_ladj(x)
        x_back, ladj_back = spline.inverse_and_ladj(y)
        torch.testing.assert_close(x_back, x, atol=1e-4, rtol=0)
        torch.testing.assert_close(ladj_back, ladj, atol=2e-2, rtol=0)
    torch.testing.assert_close(spline.call_and_ladj(at)[0], spline.knots[:, 1].T, atol=1e-5, rtol=0)


def test_outside_the_bounds_it_is_the_identity_with_finite_gradients():
    raw = torch.randn(3, 3 * BINS - 1).requires_grad_()
    x = torch.tensor([[-1e30, -BOUND, 1e30], [BOUND, 5.0, -4.5]]).requires_grad_()
    for direction in ("call_and_ladj", "inverse_and_ladj"):
        y, ladj = getattr(RationalQuadraticSpline(raw, BOUND), direction)(x)
        torch.testing.assert_close(y, x)
        torch.testing.assert_close(ladj, torch.zeros(2))
        gradients = torch.autograd.grad((y / y.detach().abs()).sum() + ladj.sum(), (raw, x))
        assert all(gradient.isfinite().all() for gradient in gradients)


@settings(deadline=None, max_examples=100)
@given(
    raw=hnp.arrays("float64", (2, 3 * 5 - 1), elements=st.floats(-1e4, 1e4)),
    x=hnp.arrays("float64", (2,), elements=st.floats(-10, 10)),
)
def test_monotonic_and_invertible_whatever_the_network_says(raw, x):
    spline = RationalQuadraticSpline(torch.from_numpy(raw), BOUND)
    x = torch.from_numpy(x)
    y, ladj = spline.call_and_ladj(x)
    assert ladj.isfinite()
    torch.testing.assert_close(spline.inverse_and_ladj(y)[0], x, atol=1e-6, rtol=1e-6)
    grid = torch.linspace(-5, 5, 201, dtype=torch.float64).unsqueeze(-1).expand(-1, 2)
    assert (spline.call_and_ladj(grid)[0].diff(dim=0) > 0).all()


def test_continuous_slope_across_the_knots():
    torch.manual_seed(0)
    spline = random_spline(torch.float64)
    at = spline.knots[:, 0, 1:-1].T
    below, above = (spline.call_and_ladj(at + side * 1e-9)[1] for side in (-1, 1))
    torch.testing.assert_close(below, above, atol=1e-5, rtol=0)
