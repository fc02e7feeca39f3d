"""PPO's entropy bonus works: the entropy estimates the right number, with a gradient that raises it."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.environments import Aim
from tests.models import POLICY_FLOWS, build, build_policy, head, observations, perturb

LINE = spaces.Box(-1.0, 1.0, (1,))


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_entropy_agrees_with_quadrature(algorithm, flow):
    policy = build_policy(algorithm, action_space=LINE, flow=flow).double()
    perturb(policy)
    obs = observations(1)
    u = torch.linspace(-12.0, 12.0, 4_001, dtype=torch.float64)
    log_prob = policy.log_prob(obs.expand(len(u), -1), u.tanh()[:, None])
    density = log_prob.exp() * u.cosh().reciprocal().square() * (u[1] - u[0])
    assert density.sum().item() == pytest.approx(1.0, abs=1e-3)
    expected = -(density * log_prob).sum().item()
    assert policy.entropy(obs, n_samples=40_000).item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
def test_the_entropy_that_ppo_sees_is_reparameterised(flow):
    """`evaluate_actions` estimates it from fresh draws; its gradient is not that of the stored actions."""
    policy = build_policy("PPO", flow=flow)
    perturb(policy)
    obs = observations(64)
    estimates = []
    for actions in (torch.zeros(64, 2), torch.full((64, 2), 3.0)):
        torch.manual_seed(0)
        entropy = policy.evaluate_actions(obs, actions)[2]
        policy.zero_grad()
        entropy.mean().backward()
        estimates.append((entropy.detach(), head(policy).context_map.bias.grad.clone()))
    assert torch.equal(estimates[0][0], estimates[1][0])
    assert torch.equal(estimates[0][1], estimates[1][1])
    assert estimates[0][1].any()


@pytest.mark.parametrize("flow", POLICY_FLOWS)
def test_the_gradient_of_entropy_is_that_of_quadrature(flow):
    """With respect to the base's log-std: a narrow policy's entropy grows by one nat for each."""
    policy = build_policy("PPO", action_space=LINE, flow=flow, log_std_init=-3.0).double()
    bias = head(policy).context_map.bias
    entropy = policy.get_distribution(observations(1)).entropy(n_samples=2_000).mean()
    (gradient,) = torch.autograd.grad(entropy, bias)
    assert gradient[1].item() == pytest.approx(1.0, abs=0.05)


def test_ent_coef_raises_entropy_where_every_action_is_as_good():
    """A bandit with constant reward, from a narrow start; the most that [-1, 1] has room for is log 2.

    SGD, since Adam would make whole steps of the noise that is all the gradient there is without a bonus.
    """

    def entropies(ent_coef: float) -> tuple[float, float]:
        env = Aim(-np.ones(1), np.ones(1), horizon=1, reward=lambda action, state: 1.0)
        policy_kwargs = dict(log_std_init=-1.5, optimizer_class=torch.optim.SGD)
        schedule = dict(n_steps=64, n_epochs=5, learning_rate=0.05, normalize_advantage=False)
        model = build("PPO", env, policy_kwargs=policy_kwargs, ent_coef=ent_coef, **schedule)
        start = mean_entropy(model)
        model.learn(1_024)
        return start, mean_entropy(model)

    @torch.no_grad()
    def mean_entropy(model) -> float:
        return model.policy.entropy(observations(64), n_samples=64).mean().item()

    start, with_bonus = entropies(0.3)
    _, without = entropies(0.0)
    assert start + 0.5 < with_bonus < np.log(2) + 0.02
    assert abs(without - start) < (with_bonus - start) / 2


def test_sac_learns_its_temperature_from_the_entropy():
    """The entropy coefficient falls while the policy has more entropy than its target, -d."""
    model = build("SAC", learning_rate=1e-2, gradient_steps=8, learning_starts=32)
    assert model.policy.get_distribution(observations(64)).entropy(16).mean() > model.target_entropy
    model.learn(128)
    assert model.log_ent_coef.exp().item() < 0.8
