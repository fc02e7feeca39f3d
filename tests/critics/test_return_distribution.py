"""A flow of the return: its quantile function, density and distribution function are one distribution, exactly."""

import math

import numpy as np
import pytest
import torch

from flowrl.critics.return_distribution import ReturnFlow

BOUND = 5.0


def flow(scale=1.0, n=7, bins=12, seed=0):
    raw = scale * torch.randn(n, 3 * bins - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ReturnFlow(raw, BOUND)


def grid(n, low=-BOUND, high=BOUND):
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_quantiles_increase_from_edge_to_edge(scale):
    z = flow(scale).quantile(torch.linspace(0, 1, 2001, dtype=torch.float64))
    assert (z.diff(dim=-1) > 0).all()
    torch.testing.assert_close(z[:, [0, -1]], torch.tensor([-BOUND, BOUND]).double().expand(7, 2))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_the_distribution_function_inverts_the_quantile_function(scale):
    tau = grid(999, 0, 1)
    torch.testing.assert_close(
        flow(scale).cdf(flow(scale).quantile(tau)), tau.expand(7, -1), atol=1e-9 if scale <= 1 else 1e-5, rtol=0
    )


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_density_is_the_slope_of_the_distribution_function_and_integrates_to_one(scale):
    z = grid(200_000)
    density = flow(scale).log_prob(z).exp()
    torch.testing.assert_close(density.mean(-1) * 2 * BOUND, torch.ones(7).double(), atol=1e-4, rtol=0)
    slope = torch.autograd.functional.jvp(flow(scale).cdf, z, torch.ones_like(z))[1]
    torch.testing.assert_close(slope, density)


def test_the_mean_is_that_of_the_density():
    z = grid(200_000)
    expected = (flow().log_prob(z).exp() * z).mean(-1) * 2 * BOUND
    torch.testing.assert_close(flow().mean(10_000), expected, atol=1e-3, rtol=0)


def test_zeros_are_uniform_and_nothing_lies_beyond_the_interval():
    uniform = ReturnFlow(torch.zeros(1, 11, dtype=torch.float64), BOUND)
    torch.testing.assert_close(uniform.quantile(torch.tensor([0.25]).double()), torch.tensor([[-2.5]]).double())
    assert uniform.log_prob(torch.tensor([0.0]).double()).item() == pytest.approx(-math.log(10))
    wild = torch.tensor([-1e12, -5.1, 5.1, 1e12]).double()
    assert (flow(30.0).log_prob(wild) == -torch.inf).all()
    np.testing.assert_array_equal(flow(30.0).cdf(wild).round(decimals=12), [[0, 0, 1, 1]] * 7)


def test_its_gradient_is_that_of_finite_differences():
    raw = torch.randn(2, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    tau, z = grid(5, 0, 1), grid(5, -4, 4)
    assert torch.autograd.gradcheck(lambda raw: ReturnFlow(raw, BOUND).quantile(tau), raw)
    assert torch.autograd.gradcheck(lambda raw: ReturnFlow(raw, BOUND).log_prob(z), raw)
