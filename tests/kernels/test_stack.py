"""Stacks of networks in C compute what torch's operations do, in value and gradient, on any number of threads."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowrl.kernels import library
from flowrl.kernels.flat import FlatParameters
from flowrl.kernels.networks import TorchStack, float32, network_stack, stacked_order
from flowrl.kernels.stack import Stack

pytestmark = pytest.mark.skipif(library.load(torch.float32) is None, reason="no C compiler: install gcc")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def product(a, b, out=None):
    """Any product but the one that the kernels stand for."""
    return torch.bmm(a, b, out=out)


def stacks(networks, widths, dtype, activation, active_end):
    """The same networks twice, in torch's operations and in C, and where their gradients lie."""
    torch.manual_seed(0)
    layers = [[nn.Linear(m, n, dtype=dtype) for m, n in pairwise(widths)] for _ in range(networks)]
    flat = FlatParameters(stacked_order(layers))
    in_torch = network_stack(layers, flat, product, activation, active_end)
    in_c = network_stack(layers, flat, float32, activation, active_end)
    assert type(in_torch) is TorchStack
    assert type(in_c) is Stack
    return in_torch, in_c, flat


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCE.items(), ids=str)
@settings(deadline=None, max_examples=30)
@given(
    networks=st.sampled_from([1, 2, 3]),
    widths=st.sampled_from([(23, 64, 64, 1), (1, 1), (5, 300, 7, 2), (17, 64, 64), (3, 8, 165), (600, 5)]),
    batch=st.sampled_from([1, 7, 64, 77, 256, 300]),
    share=st.sampled_from([1.0, 0.5]),
    shared_input=st.booleans(),
    activation=st.sampled_from([nn.ReLU, nn.Tanh]),
    active_end=st.booleans(),
)
def test_stack(dtype, tolerance, networks, widths, batch, share, shared_input, activation, active_end):
    in_torch, in_c, flat = stacks(networks, widths, dtype, activation, active_end)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*(() if shared_input else (networks,)), batch, widths[0], generator=generator).to(dtype)
    to_output = torch.randn(networks, max(int(share * batch), 1), widths[-1], generator=generator).to(dtype)
    found = []
    for stack in (in_torch, in_c):
        flat.gradient.fill_(torch.nan)  # whatever is not written shows
        output, passed = stack.forward(x)
        stack.gradients(to_output.clone(), passed)
        found.append((output, flat.gradient.clone(), stack.input_gradient(to_output.clone(), passed)))
    for theirs, ours in zip(*found):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * max(1.0, theirs.abs().max().item())


def test_what_is_not_finite_stays_so_and_keeps_to_its_row():
    _, stack, _ = stacks(2, (4, 32, 32, 1), torch.float32, nn.ReLU, False)
    x = torch.zeros(100, 4)
    x[17], x[63, 0] = torch.nan, torch.inf
    output, _ = stack.forward(x)
    assert output[:, 17].isnan().all()
    assert not output[:, 63].isfinite().all()
    others = [i for i in range(100) if i not in (17, 63)]
    assert output[:, others].isfinite().all()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("batch", [1, 8, 16, 64, 77, 256])
@pytest.mark.parametrize("widths", [(5, 40, 33, 1), (3, 300, 1), (4, 1)], ids=str)
def test_input_gradients_where_few_outputs_have_any(widths, batch, part):
    in_torch, in_c, _ = stacks(2, widths, torch.float64, nn.ReLU, False)
    x = torch.randn(batch, widths[0], dtype=torch.float64)
    to_output = torch.randn(2, batch, 1, dtype=torch.float64) * (torch.rand(2, batch, 1) < part)
    expected, found = (stack.input_gradient(to_output.clone(), stack.forward(x)[1]) for stack in (in_torch, in_c))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
