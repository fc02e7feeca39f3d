"""`FlowDistribution`: every method of SB3's `Distribution`, over any flow, on objects that do not change."""

import copy
import pickle

import pytest
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch import Tensor

from flowrl import FlowDistribution
from tests.models import POLICY_FLOWS, build_policy, observations, perturb

LATENT = 5


def latents(n: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, LATENT, generator=torch.Generator().manual_seed(seed))


def made(flow: str = "nsf", **kwargs):
    """The distribution, its trainable net, and the distribution of a batch of 8."""
    torch.manual_seed(0)
    distribution = FlowDistribution(2, flow, **kwargs)
    net = distribution.proba_distribution_net(LATENT)
    perturb(net)
    return distribution, net, distribution.proba_distribution(net(latents()))


@pytest.mark.parametrize("pre_squash", [False, True])
@pytest.mark.parametrize("flow", POLICY_FLOWS)
@torch.no_grad()
def test_shapes(flow, pre_squash):
    distribution, net, bound = made(flow, pre_squash=pre_squash)
    assert bound.sample().shape == bound.mode().shape == (8, 2)
    assert bound.log_prob(bound.sample()).shape == bound.entropy().shape == (8,)
    actions, log_prob = bound.rsample_and_log_prob()
    assert actions.shape == (8, 2) and log_prob.shape == (8,)
    assert bound.get_actions(deterministic=True).shape == (8, 2)
    assert (bound.box_actions(bound.sample()).abs() <= 1).all()
    actions, log_prob = distribution.log_prob_from_params(net(latents()))
    torch.testing.assert_close(bound.log_prob(actions), log_prob, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@torch.no_grad()
def test_get_actions_is_mode_or_sample(flow):
    distribution, net, bound = made(flow)
    assert torch.equal(bound.get_actions(deterministic=True), bound.mode())
    assert torch.equal(distribution.actions_from_params(net(latents()), deterministic=True), bound.mode())
    torch.manual_seed(1)
    sample = bound.get_actions()
    torch.manual_seed(1)
    assert torch.equal(distribution.actions_from_params(net(latents())), sample)
    assert not torch.equal(sample, bound.mode())


def test_samples_are_reparameterised():
    """SAC differentiates through `sample` and `log_prob` alike."""
    _, net, bound = made()
    for output in (bound.sample(), bound.rsample_and_log_prob()[1], bound.entropy(), bound.mode()):
        net.zero_grad()
        output.sum().backward(retain_graph=True)
        assert net.context_map.weight.grad.any()


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@torch.no_grad()
def test_a_second_batch_leaves_the_first_distribution_alone(flow):
    """TRPO and debugging keep old ones; SB3's own Gaussian is overwritten by the next call."""
    distribution, net, first = made(flow)
    actions = first.sample()
    log_prob, mode = first.log_prob(actions), first.mode()
    second = distribution.proba_distribution(net(latents(seed=7)))
    assert second is not first and not torch.equal(second.log_prob(actions), log_prob)
    assert torch.equal(first.log_prob(actions), log_prob) and torch.equal(first.mode(), mode)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_a_second_get_distribution_leaves_the_first_alone(algorithm):
    policy = build_policy(algorithm, flow="nsf")
    perturb(policy)
    first = policy.get_distribution(observations(8))
    actions = first.sample()
    log_prob = first.log_prob(actions)
    policy.get_distribution(observations(8, seed=7)).sample()
    assert torch.equal(first.log_prob(actions), log_prob)
    assert not hasattr(policy.actor.action_dist if algorithm == "SAC" else policy.action_dist, "distribution")


@torch.no_grad()
def test_the_start_is_sb3s_squashed_gaussian():
    distribution = FlowDistribution(2, "maf")
    net = distribution.proba_distribution_net(LATENT).double()
    mean, log_std = torch.randn(2, 2, LATENT, dtype=torch.float64)
    net.set_gaussian(mean, torch.zeros(2), log_std, torch.zeros(2))
    z = latents().double()
    reference = SquashedDiagGaussianDistribution(2, epsilon=0.0).proba_distribution(z @ mean.T, z @ log_std.T)
    actions, log_prob = distribution.log_prob_from_params(net(z))
    torch.testing.assert_close(log_prob, reference.log_prob(actions), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_bound_distribution_copies_and_pickles():
    _, _, bound = made("affine")
    actions = bound.sample()
    for twin in (copy.copy(bound), copy.deepcopy(bound)):
        assert torch.equal(twin.log_prob(actions), bound.log_prob(actions))
    blank = FlowDistribution(2, "nsf", dict(bins=4), squash=True, pre_squash=True)
    twin = pickle.loads(pickle.dumps(blank))
    assert vars(twin) == vars(blank)


def test_options_reach_the_flow():
    net = FlowDistribution(3, "nsf", dict(layers=3, bins=4)).proba_distribution_net(LATENT)
    assert len(net.layers) == 3 and net.features == 3 and net.context == LATENT
