"""`ActionFlow`: the exact density of the squashed action, told it or its value before the squash."""

import math

import pytest
import torch
from torch import Tensor

from flowrl import Flow
from flowrl.policies.action_distribution import ActionFlow
from tests.models import FLOW_KWARGS, FLOWS, POLICY_FLOWS, perturb

torch_kl = torch.distributions.kl_divergence


def flow_of(name: str, features: int = 2, seed: int = 0) -> Flow:
    """A perturbed flow in float64 with a context of 3, of moderate width: tanh rounds to one from |u| = 19 on."""
    torch.manual_seed(seed)
    flow = Flow(features, 3, name, **FLOW_KWARGS.get(name, {})).double()
    mean, log_std = 0.1 * torch.randn(2, features, 3)
    flow.set_gaussian(mean, torch.zeros(features), log_std, torch.full((features,), -0.5))
    perturb(flow, 0.05)
    return flow


def contexts(n: int = 16) -> Tensor:
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=POLICY_FLOWS)
def flow(request):
    """The distribution of u in a batch of 16 contexts."""
    return flow_of(request.param)(contexts())


@pytest.mark.parametrize("squash, pre_squash", [(True, True), (True, False), (False, True), (False, False)])
@torch.no_grad()
def test_samples_and_their_log_prob_agree(flow, squash, pre_squash):
    action = ActionFlow(flow, squash, pre_squash)
    value, log_prob = action.rsample_and_log_prob((5,))
    assert value.shape == (5, 16, 2) and log_prob.shape == (5, 16)
    torch.testing.assert_close(action.log_prob(value), log_prob, atol=1e-6, rtol=1e-6)
    torch.manual_seed(0)
    first = action.rsample((5,))
    torch.manual_seed(0)
    torch.testing.assert_close(first, action.rsample_and_log_prob((5,))[0])


@torch.no_grad()
def test_both_forms_give_the_density_of_the_action(flow):
    """u scored before the squash, a = tanh(u) after it: log p(a) = log p(u) - log|da/du| both times."""
    u = flow.rsample().clamp(-3, 3)  # the textbook's 1 - tanh^2 is exact enough there
    before = ActionFlow(flow, squash=True, pre_squash=True).log_prob(u)
    after = ActionFlow(flow, squash=True, pre_squash=False).log_prob(u.tanh())
    expected = flow.log_prob(u) - (1 - u.tanh().square()).log().sum(-1)
    torch.testing.assert_close(before, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_without_squash_it_is_the_flow(flow):
    action = ActionFlow(flow, squash=False, pre_squash=True)
    u = flow.rsample()
    assert torch.equal(action.log_prob(u), flow.log_prob(u))
    assert torch.equal(action.center(), flow.center())
    assert torch.equal(action.executed(u), u)


@torch.no_grad()
def test_center_and_executed_actions(flow):
    u = flow.center()
    before, after = ActionFlow(flow, True, True), ActionFlow(flow, True, False)
    assert torch.equal(before.center(), u) and torch.equal(before.mode(), u)
    torch.testing.assert_close(after.center(), u.tanh())
    torch.testing.assert_close(before.executed(u), u.tanh())
    torch.testing.assert_close(after.executed(u.tanh()), u.tanh())


@torch.no_grad()
def test_mode_of_many_samples_is_the_densest(flow):
    action = ActionFlow(flow, squash=True, pre_squash=True)
    best = action.mode(n_samples=64)
    assert (action.log_prob(best) >= action.log_prob(action.center())).all()
    assert (action.log_prob(best) > action.log_prob(action.center())).any(), "tanh moves the mode off the mean's image"


@pytest.mark.parametrize("size", [9.0, 1e4])
@pytest.mark.parametrize("name", FLOWS)
def test_saturated_actions_in_float32(name, size):
    """log p of u is finite with its gradient, and near its float64 value, wherever u is."""
    torch.manual_seed(0)
    module = Flow(2, 3, name)
    perturb(module)
    u = size * torch.tensor([[1.0, -0.9], [-1.0, 0.8]])
    context = contexts(2)
    log_prob = ActionFlow(module(context.float()), True, True).log_prob(u)
    log_prob.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    expected = ActionFlow(module.double()(context), True, True).log_prob(u.double())
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-3, atol=1e-3)


def test_actions_on_the_edge_of_the_box_in_float32():
    """tanh(u) = 1 counts as the nearest float inside: |u| = 8.7, never infinity."""
    action = ActionFlow(Flow(2, 0, "nsf")(), squash=True, pre_squash=False)
    log_prob = action.log_prob(torch.tensor([[1.0, -1.0]]))
    nearest = math.atanh(1 - 2**-24)
    gaussian = -0.5 * 2 * nearest**2 - math.log(2 * math.pi)
    expected = gaussian - 2 * 2 * (math.log(2) - nearest - math.log1p(math.exp(-2 * nearest)))
    assert log_prob.item() == pytest.approx(expected, rel=1e-4)


def test_diagnostics_of_a_gaussian_in_the_middle_and_at_the_edge():
    """One number each over the batch: entropy, saturated fraction, range of the log-det."""
    flow = Flow(2, 3, "affine")
    with torch.no_grad():
        flow.context_map.weight.zero_()
        flow.context_map.bias.zero_()
        flow.context_map.bias[2:4] = -2.0
    action = ActionFlow(flow(contexts(4_000).float()), squash=True, pre_squash=True)
    numbers = action.diagnostics()
    assert numbers["saturation"] == 0.0
    assert numbers["log_det_min"] == pytest.approx(-4.0, abs=1e-5)
    assert numbers["log_det_max"] == pytest.approx(-4.0, abs=1e-5)
    assert numbers["entropy"] == pytest.approx(math.log(2 * math.pi * math.e) - 4.0, abs=0.1)
    with torch.no_grad():
        flow.context_map.bias[0] = 9.0  # one of two components beyond 0.99
    edge = ActionFlow(flow(contexts(4_000).float()), squash=True, pre_squash=True)
    assert edge.diagnostics()["saturation"] == pytest.approx(0.5, abs=0.01)


@torch.no_grad()
def test_kl_of_unsquashed_and_squashed_actions_is_the_same():
    """A bijection of both changes nothing: what is shared by all actions cancels in the ratio."""
    p, q = flow_of("nsf")(contexts()), flow_of("nsf", seed=1)(contexts())
    value = q.rsample()
    divergences = []
    for squash in (True, False):
        new, old = (ActionFlow(flow, squash, pre_squash=True) for flow in (p, q))
        new.log_prob(value)
        divergences.append(torch_kl(new, old))
    torch.testing.assert_close(*divergences, atol=1e-9, rtol=1e-9)
    assert (divergences[0] >= 0).all()
