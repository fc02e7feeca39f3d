"""The sigmoidal map: exact in both tails, its root found at any parameters, no unit of it the twin of another."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from flowrl import Flow
from flowrl.layers import SigmoidalBijector
from flowrl.layers.bijectors import LOG_SCALE_LIMIT, OFFSET_LIMIT
from flowrl.transforms import Sigmoidal

UNITS = 6


def sigmoidal(spread: float, n: int = 2_000, dtype: torch.dtype = torch.float64) -> Sigmoidal:
    """n maps of one feature with raw parameters of this size."""
    generator = torch.Generator().manual_seed(0)
    raw = spread * torch.randn(n, 1, 3 * UNITS, generator=generator, dtype=torch.float64)
    return SigmoidalBijector(UNITS)(raw.to(dtype))


def mixture_logit(x: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """The map as the paper writes it (eq. 8 and 9), good in the middle alone."""
    return torch.logit((w * torch.sigmoid(a * x.unsqueeze(-1) + b)).sum(-1))


def test_agrees_with_zuko():
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e .[dev]")
    ours = sigmoidal(1.0, n=50)
    parameters = ours.slope, ours.offset, ours.log_weight.exp()
    theirs = zuko.transforms.MonotonicTransform(lambda x: mixture_logit(x, *parameters), bound=50.0, eps=1e-9)
    x = torch.randn(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, ladj = ours.call_and_ladj(x)
    their_y, their_ladj = theirs.call_and_ladj(x)
    torch.testing.assert_close(y, their_y, atol=1e-8, rtol=0)
    torch.testing.assert_close(ladj, their_ladj.sum(-1), atol=1e-8, rtol=0)
    torch.testing.assert_close(ours.inverse_and_ladj(y)[0], theirs.inv(y), atol=1e-8, rtol=0)


@pytest.mark.parametrize("magnitude", [1.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_float32_agrees_with_float64_in_the_middle_and_in_the_tails(spread, magnitude):
    """Of a mixture of sigmoids itself, 1 - S would be zero from x = 17 on."""
    x = magnitude * torch.linspace(-1, 1, 2_000, dtype=torch.float64).unsqueeze(-1)
    y, ladj = sigmoidal(spread).call_and_ladj(x)
    rough_y, rough_ladj = sigmoidal(spread, dtype=torch.float32).call_and_ladj(x.float())
    torch.testing.assert_close(rough_y.double(), y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rough_ladj.double(), ladj, atol=1e-3, rtol=1e-3)


def test_tails_are_straight_lines_of_the_smallest_slope():
    maps = sigmoidal(1.0)
    for sign in (-1.0, 1.0):
        y, ladj = maps.call_and_ladj(torch.full((2_000, 1), sign * 1e6, dtype=torch.float64))
        smallest = maps.slope.amin(-1)
        torch.testing.assert_close(y / (sign * 1e6), smallest, atol=1e-4, rtol=0)
        torch.testing.assert_close(ladj, smallest.log().squeeze(-1))


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("magnitude", [1.0, 30.0, 1e6])
def test_root_is_found_at_any_parameters(spread, magnitude):
    maps = sigmoidal(spread)
    y = magnitude * torch.randn(2_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, ladj = maps.inverse_and_ladj(y)
    y_back, ladj_back = maps.call_and_ladj(x)
    torch.testing.assert_close(y_back, y, atol=1e-12, rtol=1e-14)
    torch.testing.assert_close(ladj, ladj_back, atol=1e-12, rtol=0)
    assert LOG_SCALE_LIMIT >= ladj.max() and ladj.min() >= -LOG_SCALE_LIMIT - math.log1p(math.exp(OFFSET_LIMIT))


@pytest.mark.parametrize("direction", ["call_and_ladj", "inverse_and_ladj"])
def test_second_derivatives_are_right(direction):
    """The implicit function theorem's, in the direction of the root."""
    torch.manual_seed(0)
    raw = torch.randn(3, 2, 3 * 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def value(x, raw):
        return getattr(SigmoidalBijector(2)(raw), direction)(x)[0]

    assert torch.autograd.gradgradcheck(value, (x, raw))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_equal_units_separate(optimizer):
    """A new map is the identity, all units alike; a few steps on, no two are."""
    torch.manual_seed(0)
    raw = torch.zeros(3 * UNITS, dtype=torch.float64, requires_grad=True)
    x = torch.rand(200, 1, dtype=torch.float64) ** 2
    descent = optimizer([raw], lr=0.05)
    for step in range(10):
        units = SigmoidalBijector(UNITS)(raw.unsqueeze(0))
        if step == 0:
            assert (units.offset == units.offset[..., :1]).all() and (units.slope == 1).all()
            torch.testing.assert_close(units.call_and_ladj(x)[0], x, atol=1e-15, rtol=0)
        y, ladj = units.call_and_ladj(x)
        descent.zero_grad()
        (0.5 * y.square().sum(-1) - ladj).mean().backward()
        descent.step()
    for parameter in (units.offset, units.slope):
        assert parameter.flatten().sort().values.diff().min() > 1e-4


def test_fits_two_modes():
    """By maximum likelihood, to within 0.05 nats of the entropy."""
    torch.manual_seed(0)
    target = MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.tensor([-1.5, 1.5]), torch.full((2,), 0.3)))
    flow = Flow(1, 0, "naf")
    descent = torch.optim.Adam(flow.parameters(), lr=0.05)
    for data in target.sample((200, 512, 1)):
        descent.zero_grad()
        (-flow().log_prob(data).mean()).backward()
        descent.step()
    grid = torch.linspace(-5, 5, 5_001).unsqueeze(-1)
    log_p = target.log_prob(grid.squeeze(-1))
    with torch.no_grad():
        log_q = flow().log_prob(grid)
    width = grid[1] - grid[0]
    assert (log_q.exp().sum() * width).item() == pytest.approx(1, abs=1e-4)
    assert (log_p.exp() * (log_p - log_q)).sum() * width < 0.05


def test_needs_a_unit():
    with pytest.raises(ValueError, match="units >= 1, got units=0"):
        SigmoidalBijector(0)
