"""An untrained flow policy is Stable-Baselines3's own squashed Gaussian, to the last digits."""

import pytest
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch import Tensor

from tests.models import OFF_POLICY, ON_POLICY, POLICY_FLOWS, build_policy, head, observations

PARAMETERS = {"SAC": {}, "PPO": dict(log_std_init=-0.7, ortho_init=False)}


def gaussian_and_flow(algorithm: str, flow: str, **kwargs):
    """The Gaussian policy and the flow policy of one seed, in float64."""
    kwargs = PARAMETERS.get(algorithm, {}) | kwargs
    gaussian = build_policy(algorithm, "MlpPolicy", **kwargs).double()
    policy = build_policy(algorithm, "FlowPolicy", flow=flow, **kwargs).double()
    return gaussian, policy


def parameters_of(gaussian, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-std of SB3's Gaussian before the squash."""
    if hasattr(gaussian, "actor"):
        mean, log_std, _ = gaussian.actor.get_action_dist_params(obs)
        return mean, log_std
    latent = gaussian.mlp_extractor.forward_actor(gaussian.extract_features(obs))
    return gaussian.action_net(latent), gaussian.log_std.expand(len(obs), -1)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_log_prob_is_that_of_the_squashed_gaussian(algorithm, flow):
    gaussian, policy = gaussian_and_flow(algorithm, flow)
    obs = observations(64)
    mean, log_std = parameters_of(gaussian, obs)
    u = mean + log_std.exp() * torch.randn(mean.shape, dtype=torch.float64)
    reference = SquashedDiagGaussianDistribution(2, epsilon=0.0).proba_distribution(mean, log_std)
    expected = reference.log_prob(torch.tanh(u), gaussian_actions=u)

    emitted = u if algorithm == "PPO" else torch.tanh(u)
    torch.testing.assert_close(policy.get_distribution(obs).log_prob(emitted), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_samples_have_the_mean_and_spread_of_the_gaussian(algorithm, flow):
    gaussian, policy = gaussian_and_flow(algorithm, flow)
    obs = observations(1)
    mean, log_std = parameters_of(gaussian, obs)
    u = head(policy)(features_of(policy, obs)).rsample((20_000,))[:, 0]
    torch.testing.assert_close(u.mean(0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(u.std(0), log_std.exp()[0], atol=0, rtol=0.03)
    correlation = torch.corrcoef(u.T)[0, 1]
    assert abs(correlation) < 0.03


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_deterministic_action_is_the_gaussian_mean(algorithm, flow):
    gaussian, policy = gaussian_and_flow(algorithm, flow)
    obs = observations(8)
    mean, _ = parameters_of(gaussian, obs)
    emitted = policy.get_distribution(obs).mode()
    torch.testing.assert_close(emitted, mean if algorithm == "PPO" else mean.tanh(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("algorithm", OFF_POLICY + ON_POLICY)
def test_same_seed_gives_the_initial_weights_of_sb3(algorithm):
    """Trunk and mean head alike: PPO's `ortho_init` reaches the head (gain 0.01), not the flow's layers."""
    gaussian = build_policy(algorithm, "MlpPolicy")
    policy = build_policy(algorithm, "FlowPolicy", flow="nsf")
    if algorithm in OFF_POLICY:
        gaussian, policy, mean = gaussian.actor, policy.actor, gaussian.actor.mu
    else:
        mean = gaussian.action_net
    expected, weights = gaussian.state_dict(), policy.state_dict()
    shared = expected.keys() & weights.keys()
    assert any("latent_pi" in name or "policy_net" in name for name in shared)
    for name in shared:
        torch.testing.assert_close(weights[name], expected[name], atol=0, rtol=0)
    context_map = head(policy).context_map if algorithm in ON_POLICY else policy.flow.context_map
    torch.testing.assert_close(context_map.weight[:2], mean.weight, atol=0, rtol=0)
    torch.testing.assert_close(context_map.bias[:2], mean.bias, atol=0, rtol=0)


def test_log_std_init_is_the_start_of_the_on_policy_scale():
    policy = build_policy("PPO", log_std_init=-1.5)
    context_map = head(policy).context_map
    assert torch.equal(context_map.bias[2:4], torch.full((2,), -1.5))
    assert torch.equal(context_map.weight[2:4], torch.zeros(2, 16))


@torch.no_grad()
def features_of(policy, obs: Tensor) -> Tensor:
    """What the policy's trunk gives its head."""
    if hasattr(policy, "actor"):
        return policy.actor.latent_pi(policy.actor.extract_features(obs, policy.actor.features_extractor))
    return policy.mlp_extractor.forward_actor(policy.extract_features(obs))


@torch.no_grad()
def test_a_wide_start_that_is_not_squashed_is_as_wide_as_sb3s():
    wide = dict(log_std_init=4.0)
    gaussian = build_policy("PPO", "MlpPolicy", **wide)
    policy = build_policy("PPO", squash_output=False, **wide)
    obs, actions = observations(64), 50 * torch.randn(64, 2)
    expected = gaussian.get_distribution(obs).log_prob(actions)
    torch.testing.assert_close(policy.get_distribution(obs).log_prob(actions), expected, atol=1e-4, rtol=1e-5)
    given = build_policy("PPO", squash_output=False, flow_kwargs=dict(log_std_max=1.0), **wide)
    assert given.action_net.log_std_max == 1.0
