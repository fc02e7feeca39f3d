"""The continuous flow: its trace exact, its solver of fourth order, its field never too steep for it."""

import itertools
import sys

import pytest
import torch
from torch import Tensor

from flowrl import Flow
from flowrl.layers import ContinuousLayer
from flowrl.layers.continuous import LIPSCHITZ_LIMIT
from flowrl.transforms import Continuous
from tests.transforms.cases import make_layer

pytestmark = pytest.mark.usefixtures("float64")

D = 3


def continuous(scale: float = 0.5, d: int = D, **options) -> Continuous:
    """A trained-looking flow, for a batch of 6 contexts."""
    layer = ContinuousLayer(d, (16, 16), **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += scale * torch.randn_like(parameter)
        return layer(torch.randn(6, layer.context_size))


def reference(transform: Continuous, x: Tensor) -> tuple[Tensor, Tensor]:
    """torchdiffeq to 1e-9, with the trace of autograd's Jacobian."""
    odeint = pytest.importorskip("torchdiffeq", reason="a development dependency: pip install -e .[dev]").odeint

    def dynamics(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            velocity = transform.field(t, x)[0]
            rows = [torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in velocity.unbind(-1)]
        trace = torch.stack(rows, dim=-2).diagonal(dim1=-2, dim2=-1).sum(-1)
        return velocity.detach(), trace

    y, ladj = odeint(dynamics, (x, torch.zeros(len(x))), torch.tensor([0.0, 1.0]), rtol=1e-9, atol=1e-9)
    return y[-1], ladj[-1]


def test_divergence_is_the_trace_of_the_jacobian():
    field = continuous().field
    x = torch.randn(6, D)
    jacobian = torch.autograd.functional.jacobian(lambda x: field(0.3, x)[0].sum(0), x).movedim(1, 0)
    torch.testing.assert_close(field(0.3, x)[1], jacobian.diagonal(dim1=-2, dim2=-1).sum(-1), atol=1e-12, rtol=0)


def test_agrees_with_an_adaptive_solver_and_autograds_trace():
    transform = continuous(steps=64)
    x = torch.randn(6, D)
    for ours, theirs in zip(transform.call_and_ladj(x), reference(transform, x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)


def test_agrees_with_zuko():
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e .[dev]")
    transform = continuous(steps=64)
    theirs = zuko.transforms.FreeFormJacobianTransform(lambda t, x: transform.field(t, x)[0], atol=1e-9, rtol=1e-9)
    x = torch.randn(6, D)
    for ours, other in zip(transform.call_and_ladj(x), theirs.call_and_ladj(x), strict=True):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=0)


def test_error_falls_with_the_fourth_power_of_the_step():
    transform = continuous(scale=1.0, steps=512)
    x = torch.randn(6, D)
    exact = transform.call_and_ladj(x)
    errors = []
    for transform.steps in (16, 32, 64):
        errors.append([(a - b).abs().max() for a, b in zip(transform.call_and_ladj(x), exact, strict=True)])
    for coarse, fine in itertools.pairwise(errors):
        for before, after in zip(coarse, fine, strict=True):
            assert 12 < before / after < 22


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("d", [1, 3, 17])
def test_field_is_never_too_steep_for_the_default_steps(scale, d):
    """Whatever the weights; without the bound, log-dets at a scale of 10 are wrong by more than ten nats."""
    transform = continuous(scale, d)
    x = torch.randn(6, d)
    jacobian = torch.autograd.functional.jacobian(lambda x: transform.field(0.5, x)[0].sum(0), x).movedim(1, 0)
    assert torch.linalg.matrix_norm(jacobian, 2).max() < LIPSCHITZ_LIMIT
    y, ladj = transform.call_and_ladj(x)
    x_back, ladj_back = transform.inverse_and_ladj(y)
    torch.testing.assert_close(x_back, x, atol=1e-3, rtol=0)
    torch.testing.assert_close(ladj_back, ladj, atol=1e-2, rtol=0)
    transform.steps *= 10
    torch.testing.assert_close(transform.call_and_ladj(x)[1], ladj, atol=0.1 if scale > 1 else 1e-4, rtol=0)


def test_adaptive_solver_agrees_to_its_tolerance_and_is_differentiable():
    pytest.importorskip("torchdiffeq", reason="a development dependency: pip install -e .[dev]")
    flows = [
        Flow(2, 4, "ffjord", hidden=(16, 16), steps=64),
        Flow(2, 4, "ffjord", hidden=(16, 16), solver="dopri5", rtol=1e-7, atol=1e-7),
    ]
    with torch.no_grad():
        for parameter in flows[0].parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    flows[1].load_state_dict(flows[0].state_dict())
    context, x = torch.randn(6, 4), torch.randn(5, 6, 2)
    log_probs = [flow(context).log_prob(x) for flow in flows]
    torch.testing.assert_close(log_probs[1], log_probs[0], atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(log_prob.sum(), flow.parameters()) for log_prob, flow in zip(log_probs, flows)]
    for adaptive, fixed in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(adaptive, fixed, atol=1e-3, rtol=1e-4)


def test_starts_at_the_identity_and_may_be_differentiated_twice_there():
    layer, context = make_layer("continuous", D, 0.0)
    x = torch.randn(6, D)
    y, ladj = layer(context).call_and_ladj(x)
    assert torch.equal(y, x) and torch.equal(ladj, torch.zeros(6))
    first = torch.autograd.grad(
        layer(context).call_and_ladj(x)[1].square().sum(), layer.third.weight, create_graph=True
    )
    (second,) = torch.autograd.grad(first[0].sum(), layer.third.weight)
    assert second.isfinite().all() and second.abs().sum() > 0


def test_refuses_what_it_cannot_solve(monkeypatch):
    with pytest.raises(ValueError, match="Unknown solver 'dopri'. Did you mean 'dopri5'"):
        ContinuousLayer(2, solver="dopri")
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        ContinuousLayer(2, steps=0)
    with pytest.raises(ValueError, match="two hidden layers, got hidden=\\(8,\\)"):
        ContinuousLayer(2, (8,))
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match="pip install torchdiffeq"):
        ContinuousLayer(2, solver="dopri5")
