"""PPO's ratio: one where nothing has changed, its gradient right however far out the stored action lies."""

import copy

import pytest
import torch
from torch import Tensor

from tests.models import POLICY_FLOWS, build_policy, observations, perturb


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 4e-5)], ids=str)
@pytest.mark.parametrize("squash_output", [True, False])
@pytest.mark.parametrize("flow", ["affine", *POLICY_FLOWS])
@torch.no_grad()
def test_ratio_is_one_before_the_first_update(flow, squash_output, dtype, tolerance):
    """What `forward` emits in the rollout, `evaluate_actions` scores alike."""
    policy = build_policy("PPO", flow=flow, squash_output=squash_output).to(dtype)
    perturb(policy)
    obs = observations(256)
    actions, values, old_log_prob = policy(obs)
    new_values, log_prob, _ = policy.evaluate_actions(obs, actions)
    # Over seeds, rounding in float32 leaves 7e-6 to 1.7e-5
    torch.testing.assert_close((log_prob - old_log_prob).exp(), torch.ones(256, dtype=dtype), atol=tolerance, rtol=0)
    torch.testing.assert_close(new_values, values)


@pytest.mark.parametrize("flow", ["affine", *POLICY_FLOWS])
@torch.no_grad()
def test_sac_scores_its_samples_as_it_drew_them(flow):
    """Both passes of a flow agree through the squash: `action_log_prob` against `log_prob` of the action."""
    policy = build_policy("SAC", flow=flow).double()
    perturb(policy, 0.05)  # further, some actions round to the box's edge even in float64
    obs = observations(256)
    actions, log_prob = policy.actor.action_log_prob(obs)
    torch.testing.assert_close(policy.get_distribution(obs).log_prob(actions), log_prob, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [0.1, 3.0, 9.0, 20.0])
@pytest.mark.parametrize("flow", ["affine", *POLICY_FLOWS])
def test_gradient_of_the_ratio_agrees_with_float64(flow, size):
    """Squashed and unsquashed in float32, a stored action would be 8.3 at most, and its gradient wrong."""
    policy = build_policy("PPO", flow=flow)
    perturb(policy)
    obs = observations(32)
    signs = torch.randn(32, 2, generator=torch.Generator().manual_seed(4)).sign()
    u = size * signs * torch.linspace(0.8, 1.0, 64).reshape(32, 2)
    gradient = ratio_gradient(policy, obs, u)
    reference = ratio_gradient(copy.deepcopy(policy).double(), obs, u.double())
    assert gradient.keys() == reference.keys()
    for name, expected in reference.items():
        assert gradient[name].isfinite().all(), name
        error = (gradient[name].double() - expected).norm() / expected.norm().clamp_min(1e-6)
        assert error < 1e-3, f"{name}: {error:.1e}"


@pytest.mark.parametrize("flow", ["affine", *POLICY_FLOWS])
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_log_prob_of_saturated_actions_is_finite_in_float32(algorithm, flow):
    """Neither the value nor the gradient breaks where tanh rounds to one: |u| = 9, 20 and far beyond."""
    policy = build_policy(algorithm, flow=flow)
    perturb(policy)
    u = torch.tensor([9.0, -20.0, 100.0, -1000.0])[:, None].expand(-1, 2)
    log_prob = policy.get_distribution(observations(4)).log_prob(u if algorithm == "PPO" else u.tanh())
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("flow", ["affine", *POLICY_FLOWS])
def test_sac_samples_far_out_have_finite_log_prob_and_gradient(flow):
    """SAC's own formula, log(1 - a^2 + 1e-6), is off by more than one nat per dimension from |u| = 8."""
    policy = build_policy("SAC", flow=flow)
    with torch.no_grad():
        policy.actor.flow.context_map.bias[:2] = torch.tensor([20.0, -50.0])  # the base's mean
    actions, log_prob = policy.actor.action_log_prob(observations(32))
    assert (actions.abs() == 1).all() and log_prob.isfinite().all()
    expected = 2 * (20 + 50)  # log(1 - tanh^2 u) is about log 4 - 2 |u| a dimension
    assert log_prob.mean().item() == pytest.approx(expected, rel=0.1)
    (actions.sum() + log_prob.mean()).backward()
    assert all(p.grad.isfinite().all() for p in policy.actor.parameters() if p.grad is not None)


def ratio_gradient(policy, obs: Tensor, u: Tensor) -> dict[str, Tensor]:
    """Gradient of a weighted mean of the first minibatch's ratio, for every parameter that it reaches."""
    _, log_prob, _ = policy.evaluate_actions(obs, u)
    ratio = (log_prob - log_prob.detach()).exp()
    assert torch.equal(ratio, torch.ones_like(ratio))
    advantages = torch.linspace(-1.0, 1.5, len(u), dtype=u.dtype)
    policy.zero_grad()
    (advantages * ratio).mean().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
