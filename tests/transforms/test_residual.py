"""Planar and radial maps at any parameters: invertible, and their inverses solve the equation they should."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from flowrl.transforms import Planar, Radial, planar_displacement
from flowrl.transforms.planar import MIN_SLOPE, solve_planar


@settings(deadline=None, max_examples=200)
@given(c=st.floats(-1e6, 1e6), kappa=st.floats(MIN_SLOPE - 1, 1e4))
def test_planar_root_is_found(c, kappa):
    c, kappa = torch.tensor([c], dtype=torch.float64), torch.tensor([kappa], dtype=torch.float64)
    a = solve_planar(c, kappa)
    torch.testing.assert_close(a + kappa * torch.tanh(a), c, atol=1e-9, rtol=1e-12)


def test_planar_root_has_the_gradient_of_the_implicit_function_theorem():
    torch.manual_seed(0)
    c = (5 * torch.randn(100, dtype=torch.float64)).requires_grad_()
    kappa = (3 * torch.rand(100, dtype=torch.float64) - 0.98).requires_grad_()
    a = solve_planar(c, kappa)
    by_c, by_kappa = torch.autograd.grad(a.sum(), (c, kappa))
    slope = 1 + kappa / torch.cosh(a) ** 2
    torch.testing.assert_close(by_c, 1 / slope)
    torch.testing.assert_close(by_kappa, -torch.tanh(a) / slope)


def test_planar_root_has_the_second_derivatives_of_the_implicit_function_theorem():
    torch.manual_seed(0)
    c = (2 * torch.randn(20, dtype=torch.float64)).requires_grad_()
    kappa = (3 * torch.rand(20, dtype=torch.float64) - 0.9).requires_grad_()
    assert torch.autograd.gradgradcheck(solve_planar, (c, kappa))


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, MIN_SLOPE / 2), (torch.float64, 1e-9)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 30.0, 300.0, 1e6])
def test_planar_displacement_keeps_the_map_invertible(dtype, rounding, scale):
    torch.manual_seed(0)
    w, raw_u, x = scale * torch.randn(3, 20_000, 3, dtype=dtype)
    u = planar_displacement(w, raw_u)
    assert ((w * u).sum(-1) >= MIN_SLOPE - 1 - rounding).all()
    assert Planar(w, u, torch.zeros((), dtype=dtype)).call_and_ladj(x / max(scale, 1.0) ** 2)[1].isfinite().all()


def test_planar_displacement_of_ordinary_size_is_what_it_is_without_a_bound(monkeypatch):
    torch.manual_seed(0)
    w, raw_u = torch.nn.functional.normalize(torch.randn(2, 1_000, 3), dim=-1)
    u = planar_displacement(w, raw_u)
    monkeypatch.setattr("flowrl.transforms.planar.DISPLACEMENT_LIMIT", torch.inf)
    assert torch.equal(planar_displacement(w, raw_u), u)


def test_planar_displacement_of_zero_is_zero_and_of_a_zero_direction_is_finite():
    w = torch.randn(4, 3)
    torch.testing.assert_close(planar_displacement(w, torch.zeros(4, 3)), torch.zeros(4, 3), atol=1e-6, rtol=0)
    assert planar_displacement(torch.zeros(4, 3), torch.randn(4, 3)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gamma", [0.01, 1.0, 50.0])
def test_radial_inverse_at_its_center_and_far_away(dtype, gamma):
    center = torch.tensor([[1.0, -2.0]], dtype=dtype)
    radial = Radial(center, torch.tensor([0.7], dtype=dtype), torch.tensor([gamma], dtype=dtype))
    x = center + torch.tensor([[0.0], [1e-6], [1.0], [1e5], [1e20], [1e30]], dtype=dtype)
    y, ladj = radial.call_and_ladj(x)
    x_back, ladj_back = radial.inverse_and_ladj(y)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(x_back, x, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ladj_back, ladj, atol=tolerance, rtol=tolerance)


def test_residual_maps_without_displacement_are_the_identity():
    x = torch.randn(5, 3)
    planar = Planar(torch.randn(5, 3), torch.zeros(5, 3), torch.randn(5))
    radial = Radial(torch.randn(5, 3), torch.ones(5), torch.ones(5))
    for transform in (planar, radial):
        y, ladj = transform.call_and_ladj(x)
        torch.testing.assert_close(y, x)
        torch.testing.assert_close(ladj, torch.zeros(5), atol=1e-6, rtol=0)
