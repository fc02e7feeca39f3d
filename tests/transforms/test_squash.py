"""The tanh squash in float32, where tanh has long rounded to one."""

import math

import numpy as np
import pytest
import torch

from flowrl.transforms import TanhBox


@pytest.mark.parametrize("u", [0.0, 1.0, 8.0, 20.0, 50.0, 1e4])
@pytest.mark.parametrize("sign", [-1, 1])
def test_log_det_is_exact_in_float32(u, sign):
    x = torch.tensor([sign * u], requires_grad=True)
    y, ladj = TanhBox().call_and_ladj(x)
    # log(1 - tanh^2 u) = log 4 - 2 |u| - 2 log(1 + e^{-2 |u|})
    expected = math.log(4) - 2 * u - 2 * math.log1p(math.exp(-2 * u))
    assert ladj.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    ladj.backward()
    assert x.grad.item() == pytest.approx(-2 * sign * math.tanh(u), abs=1e-6)
    assert abs(y.item()) <= 1


def test_box_is_filled_from_edge_to_edge():
    box = TanhBox(torch.tensor([-2.0, 0.0]), torch.tensor([3.0, 10.0]))
    x = torch.tensor([[-30.0, -30.0], [0.0, 0.0], [30.0, 30.0]])
    y, _ = box.call_and_ladj(x)
    torch.testing.assert_close(y, torch.tensor([[-2.0, 0.0], [0.5, 5.0], [3.0, 10.0]]))


def test_a_box_of_arrays_is_never_left():
    low = np.random.default_rng(0).uniform(-3, 0, 2_000).astype(np.float32)
    box = TanhBox(low, low + np.float32(1.2))
    y, _ = box.call_and_ladj(torch.full((2_000,), 30.0))
    assert (y <= box.high).all() and box.codomain.check(y).all()
    y, ladj = TanhBox(np.array([-1.0, -2.0]), np.array([1.0, 2.0])).call_and_ladj(torch.zeros(2))
    assert y.dtype == ladj.dtype == torch.float32
    assert TanhBox([-1.0, 0.0], [1.0, 4.0]).call_and_ladj(torch.zeros(2))[0].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("high", [-2.0, 1.0, torch.nan])
def test_a_box_whose_edges_are_not_in_order_is_refused(high):
    with pytest.raises(ValueError, match="low < high, got low=1.0 and high="):
        TanhBox(1.0, high)
    with pytest.raises(ValueError, match="low < high"):
        TanhBox(np.float32(1), np.float32(-1))


def test_inverse_of_the_edge_is_finite():
    x, ladj = TanhBox().inverse_and_ladj(torch.tensor([[-1.0, 1.0]]))
    assert x.isfinite().all() and ladj.isfinite().all()
    assert (x.abs() > 8).all()
