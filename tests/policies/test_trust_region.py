"""TRPO's KL divergence: on the stored actions, zero and flat at the old policy, and curved as Fisher's."""

import copy

import pytest
import torch
from stable_baselines3.common.distributions import kl_divergence

from tests.models import FLOWS, POLICY_FLOWS, build, build_policy, head, observations, perturb

CONDITIONED = ["realnvp", "nsf", "maf", "iaf", "naf", "glow", "ffjord"]  # parameters in networks of the layers' own


def trust_region(flow: str, batch: int = 16, double: bool = True):
    """Policy, its observations, stored actions, and the old distribution as TRPO keeps it."""
    policy = build_policy("TRPO", flow=flow)
    policy = policy.double() if double else policy
    perturb(policy)
    obs = observations(batch)
    with torch.no_grad():
        actions = policy(obs)[0]
        old = policy.get_distribution(obs)
    return policy, obs, actions, old


@pytest.mark.parametrize("flow", POLICY_FLOWS)
def test_kl_is_zero_with_zero_gradient_at_the_old_policy(flow):
    policy, obs, actions, old = trust_region(flow)
    new = policy.get_distribution(obs)
    new.log_prob(actions)
    kl = kl_divergence(new, old).mean()
    assert abs(kl.item()) < 1e-12
    kl.backward()
    assert all(p.grad.abs().max() < 1e-9 for p in head(policy).parameters())


@pytest.mark.parametrize("flow", POLICY_FLOWS)
def test_hessian_is_the_fisher_matrix_of_the_stored_actions(flow):
    """H v = E[g (g . v)] with g the gradient of one action's log-prob: what conjugate gradients work with."""
    policy, obs, actions, old = trust_region(flow)
    parameters = list(head(policy).parameters())
    new = policy.get_distribution(obs)
    log_prob = new.log_prob(actions)
    gradient = torch.autograd.grad(kl_divergence(new, old).mean(), parameters, create_graph=True)
    vector = [torch.randn_like(p) for p in parameters]
    product = torch.autograd.grad(sum((g * v).sum() for g, v in zip(gradient, vector)), parameters, retain_graph=True)

    fisher = [torch.zeros_like(p) for p in parameters]
    for one in log_prob:
        score = torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True)
        along = sum((g * v).sum() for g, v in zip(score, vector))
        fisher = [f + g * along / len(log_prob) for f, g in zip(fisher, score)]
    for ours, expected in zip(product, fisher):
        torch.testing.assert_close(ours, expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@torch.no_grad()
def test_kl_is_of_the_old_parameters_after_a_step(flow):
    """As in TRPO's line search: the old distribution stays what it was, every parameter's change counts."""
    policy, obs, actions, old = trust_region(flow)
    old_policy = copy.deepcopy(policy)
    new = policy.get_distribution(obs)
    new.log_prob(actions)
    kl_divergence(new, old)  # TRPO asks for it once before the step
    for parameter in head(policy).layers.parameters() if flow in CONDITIONED else head(policy).parameters():
        parameter.data = parameter.data + 0.02 * torch.randn_like(parameter)

    new = policy.get_distribution(obs)
    log_ratio = new.log_prob(actions) - old_policy.get_distribution(obs).log_prob(actions)
    expected = log_ratio.exp() * log_ratio - log_ratio.expm1()
    assert (expected >= 0).all() and expected.mean() > 1e-4
    torch.testing.assert_close(kl_divergence(new, old), expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@torch.no_grad()
def test_kl_of_distributions_that_scored_nothing(flow):
    """Outside of TRPO it draws actions of its own."""
    policy, obs, _, old = trust_region(flow, batch=256)
    other = copy.deepcopy(policy)
    perturb(other, 0.05, seed=5)
    kl = torch.distributions.kl_divergence(other.get_distribution(obs).distribution, old.distribution)
    assert kl.shape == (256,)
    assert (kl >= 0).all() and kl.mean() > 1e-4


@torch.no_grad()
def test_kl_agrees_with_the_gaussian_closed_form():
    """On many actions the estimate is the KL of the Gaussians before the squash, which changes nothing."""
    policy, obs, actions, old = trust_region("affine", batch=1)
    obs = obs.expand(50_000, -1)
    actions = policy(obs)[0]
    old = policy.get_distribution(obs)
    context_map = head(policy).context_map
    mean, covariance = gaussian_moments(old)
    context_map.bias[0] += 0.3
    new = policy.get_distribution(obs)
    new_mean, new_covariance = gaussian_moments(new)
    new.log_prob(actions)
    estimate = kl_divergence(new, old).mean().item()
    normal = torch.distributions.MultivariateNormal
    expected = torch.distributions.kl_divergence(normal(new_mean, new_covariance), normal(mean, covariance)).item()
    assert estimate == pytest.approx(expected, rel=0.1)


def test_trpo_steps_within_its_trust_region():
    model = build("TRPO", policy_kwargs=dict(flow="nsf"), target_kl=0.01, line_search_max_iter=20)
    before = head(model.policy).context_map.weight.clone()
    model.learn(128)
    logged = model.logger.name_to_value
    assert logged["train/is_line_search_success"] == 1.0
    assert 0 < logged["train/kl_divergence_loss"] < 0.01
    assert not torch.equal(before, head(model.policy).context_map.weight)


def test_no_parameter_is_taken_for_a_value_network():
    """TRPO leaves parameters out whose name holds "value"."""
    for flow in FLOWS:
        assert not [name for name, _ in head(build_policy("TRPO", flow=flow)).named_parameters() if "value" in name]


def gaussian_moments(distribution) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of a triangular affine flow, by pushing the unit vectors through."""
    transform = distribution.distribution.flow.transform
    like = distribution.distribution.flow.center()
    z = torch.zeros_like(like[:3])
    z[1, 0] = z[2, 1] = 1.0
    x = transform.call_and_ladj(torch.cat((z, torch.zeros_like(like[3:]))))[0]
    matrix = torch.stack((x[1] - x[0], x[2] - x[0]), dim=1)
    return x[0], matrix @ matrix.T
