"""Actions in the environment's own box: filled to its edges, never left, with a density of integral one."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from torch import Tensor

from tests.environments import Aim
from tests.models import (
    ALGORITHMS,
    BOX,
    OFF_POLICY,
    ON_POLICY,
    POLICY_FLOWS,
    build,
    build_policy,
    env_actions,
    head,
    observations,
    perturb,
)

UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,))


def widen(policy, log_std: float = 1.5) -> None:
    """Make the policy's noise so wide that tanh saturates often."""
    with torch.no_grad():
        head(policy).context_map.bias[2:4] += log_std


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_samples_fill_an_asymmetric_box_to_its_edges(algorithm, flow):
    policy = build_policy(algorithm, flow=flow)
    widen(policy)
    actions, _ = policy.predict(np.zeros((4_000, 3), np.float32))
    assert BOX.contains(actions[0]) and (actions >= BOX.low).all() and (actions <= BOX.high).all()
    position = (actions - BOX.low) / (BOX.high - BOX.low)
    assert (position.min(0) < 0.01).all() and (position.max(0) > 0.99).all()
    inner = np.histogram2d(*position.T, bins=4, range=[[0, 1]] * 2)[0]
    assert (inner > 0).all(), "and in between"


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_predict_never_leaves_a_box_whose_edges_are_no_round_numbers(algorithm, deterministic):
    """In float32, low + (high - low) may round to beyond high."""
    edges = np.random.default_rng(0).normal(size=(2, 200)).astype(np.float32)
    box = spaces.Box(edges.min(0), edges.max(0))
    policy = build_policy(algorithm, action_space=box, flow="affine")
    for sign in (-1.0, 1.0):
        with torch.no_grad():
            head(policy).context_map.bias[:200] = 30 * sign
        action, _ = policy.predict(np.zeros(3, np.float32), deterministic=deterministic)
        outside = np.maximum(action - box.high, box.low - action).max()
        assert box.contains(action), f"{outside:.1e} outside"


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_log_prob_integrates_to_one_over_the_box(algorithm, flow):
    """Quadrature in environment units over the whole box, at parameters where no flow is the identity."""
    policy = build_policy(algorithm, flow=flow).double()
    perturb(policy, 0.05)  # further, glow's tails leave the grid's |u|
    actions, weights = box_quadrature(nodes=201)
    log_prob = policy.log_prob(observations(1).expand(len(actions), -1), actions)
    assert (log_prob.exp() * weights).sum().item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_entropy_is_minus_the_mean_log_prob_in_environment_units(algorithm, flow):
    policy = build_policy(algorithm, flow=flow).double()
    perturb(policy, 0.05)
    obs = observations(1)
    actions, weights = box_quadrature(nodes=181)
    log_prob = policy.log_prob(obs.expand(len(actions), -1), actions)
    expected = -(log_prob.exp() * log_prob * weights).sum().item()
    assert policy.entropy(obs, n_samples=20_000).item() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@torch.no_grad()
def test_log_prob_is_that_of_the_action_that_the_environment_got(algorithm):
    """Sampled by `predict`, scored by `log_prob`: their mean is minus the entropy."""
    policy = build_policy(algorithm, flow="nsf")
    perturb(policy)
    obs = np.tile(observations(1).numpy(), (4_000, 1))
    actions, _ = policy.predict(obs)
    log_prob = policy.log_prob(torch.as_tensor(obs), torch.as_tensor(actions))
    entropy = policy.entropy(torch.as_tensor(obs), n_samples=2)
    assert -log_prob.mean().item() == pytest.approx(entropy.mean().item(), abs=0.1)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@torch.no_grad()
def test_outside_of_the_box_the_density_is_zero_and_nan_stays_nan(algorithm):
    policy = build_policy(algorithm)
    low, high = torch.as_tensor(BOX.low), torch.as_tensor(BOX.high)
    inside, beyond = (low + high) / 2, torch.stack((high[0].nextafter(torch.tensor(99.0)), low[1]))
    actions = torch.stack((inside, low, high, beyond, low - 1, inside * torch.nan, torch.tensor([torch.nan, 99.0])))
    log_prob = policy.log_prob(observations(1).expand(7, -1), actions)
    assert log_prob[:3].isfinite().all()
    assert (log_prob[3:5] == -torch.inf).all() and log_prob[5:].isnan().all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scale_and_unscale_are_inverse(algorithm):
    """On-policy, the stored action is u before the tanh; off-policy it is the action in [-1, 1]."""
    policy = build_policy(algorithm)
    actions = env_actions(BOX, 100).numpy()
    stored = policy.scale_action(actions)
    np.testing.assert_allclose(policy.unscale_action(stored), actions, atol=1e-5)
    expected = 2 * (actions - BOX.low) / (BOX.high - BOX.low) - 1
    np.testing.assert_allclose(np.tanh(stored) if algorithm in ON_POLICY else stored, expected, atol=1e-6)


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_scaled_edges_of_the_box_are_finite(algorithm):
    """A demonstration's action may lie on the edge, whose arctanh is infinite."""
    policy = build_policy(algorithm)
    edges = np.stack([BOX.low, BOX.high])
    stored = policy.scale_action(edges)
    assert np.isfinite(stored).all()
    np.testing.assert_allclose(policy.unscale_action(stored), edges, atol=1e-5)
    log_prob = policy.log_prob(observations(2), torch.as_tensor(edges))
    assert log_prob.isfinite().all()


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@torch.no_grad()
def test_an_unbounded_box_is_not_squashed(flow):
    """(SB3 2.9's algorithms refuse such a box; the policy by itself is a density over all of R^d.)"""
    policy = build_policy("PPO", action_space=UNBOUNDED, flow=flow, log_std_init=2.0)
    assert not policy.squash_output
    perturb(policy, 0.02)
    actions, _ = policy.predict(np.zeros((200, 3), np.float32))
    assert (np.abs(actions) > 3).any()
    obs = torch.zeros(200, 3)
    emitted, _, log_prob = policy(obs)
    torch.testing.assert_close(policy.log_prob(obs, emitted), log_prob, atol=1e-4, rtol=1e-5)
    gaussian = math.log(2 * math.pi * math.e) + 2 * 2.0
    assert policy.entropy(obs, 100).mean().item() == pytest.approx(gaussian, abs=0.5)


def test_without_squash_actions_are_clipped_to_the_box():
    """`squash_output=False`: as SB3's Gaussian PPO, log-probs are those of the action before the clip."""
    model = build("PPO", policy_kwargs=dict(squash_output=False, log_std_init=2.0))
    policy = model.policy
    assert not policy.squash_output
    model.learn(64)  # the environment refuses what lies outside
    stored = model.rollout_buffer.actions
    assert (np.abs(stored) > 10).any(), "the raw actions are stored"
    actions, _ = policy.predict(np.zeros((500, 3), np.float32))
    assert all(BOX.contains(action) for action in actions)
    for edge in (*zip(BOX.low, actions.min(0)), *zip(BOX.high, actions.max(0))):
        assert edge[0] == edge[1], "clipped, hence on the edge itself"
    obs, raw = observations(8), torch.full((8, 2), 12.0)
    torch.testing.assert_close(policy.log_prob(obs, raw), policy.get_distribution(obs).log_prob(raw))


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_target_entropy_is_of_densities_on_the_unit_box(algorithm):
    """-d whatever the box's size: `action_log_prob` has no term of the environment's units."""
    assert build(algorithm, target_entropy="-3").target_entropy == -3.0, "nats, as SB3 takes it"
    model = build(algorithm)
    assert model.target_entropy == -2.0
    obs = observations(64)
    actions, log_prob = model.actor.action_log_prob(obs)
    low, high = torch.as_tensor(BOX.low), torch.as_tensor(BOX.high)
    in_environment = model.policy.log_prob(obs, low + (actions + 1) / 2 * (high - low))
    torch.testing.assert_close(in_environment, log_prob - ((high - low) / 2).log().sum(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_the_environment_gets_actions_of_the_whole_box(algorithm):
    """During training too, where off- and on-policy algorithms each rescale in their own place."""
    seen = []
    env = Aim(horizon=1, reward=lambda action, state: seen.append(action) or 0.0)
    name = algorithm.__name__
    model = build(name, env, **(dict(learning_starts=0, gradient_steps=0) if name == "SAC" else {}))
    widen(model.policy)
    model.learn(512)
    seen = np.stack(seen)
    assert (seen.min(0) < -0.98).all() and (seen.max(0) > 0.98).all()


def box_quadrature(nodes: int) -> tuple[Tensor, Tensor]:
    """Points of `BOX`, dense in the middle, and their volumes: ``(nodes^2, 2)`` and ``(nodes^2,)``."""
    t = torch.linspace(-2.0, 2.0, nodes, dtype=torch.float64)
    u = 4 * t.sinh()  # within 14.5
    low, high = torch.as_tensor(BOX.low).double(), torch.as_tensor(BOX.high).double()
    half = (high - low) / 2
    width = 4 * t.cosh() * u.cosh().reciprocal().square() * (t[1] - t[0])
    unit = torch.cartesian_prod(u.tanh(), u.tanh())
    return low + (unit + 1) * half, torch.cartesian_prod(width, width).prod(-1) * half.prod()
