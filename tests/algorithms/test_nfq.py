"""NFQ: its Q is soft-optimal by construction, its gradients are right, and it lives as SB3's algorithms do."""

import logging
import math
import re
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn
from torch.distributions import Distribution

from flowrl import Flow, FlowLogger, TaskReturns, available_flows
from flowrl.algorithms import NFQ, SAC, SNF, Transitions, offline
from flowrl.algorithms.nfq.cost import why_slow
from flowrl.algorithms.nfq.update import conservative_loss, importance, soft_q_loss, td_target, update
from flowrl.critics.soft_q import soft_q
from flowrl.policies.action_box import EDGE
from tests.adapters.external_flows import EXTERNAL
from tests.environments import HIGH, LOW, Aim, Spaces
from tests.models import HAS_KERNELS, OBSERVATIONS, Precise, observations, perturb, widen_moderately

FLOWS = ["nsf", "triangular", "realnvp"]


@pytest.fixture(autouse=True)
def single_precision():
    yield
    torch.set_default_dtype(torch.float32)


def nfq(env=None, flow="nsf", double=False, policy_kwargs=None, **kwargs):
    extractor = dict(features_extractor_class=Precise) if double else {}
    kwargs = dict(learning_starts=50, batch_size=32, buffer_size=2_000, flow_lr_scale=1.0, ent_coef="auto") | kwargs
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    model = NFQ(
        "FlowPolicy",
        env or Aim(),
        policy_kwargs=dict(net_arch=[16], flow=flow) | extractor | (policy_kwargs or {}),
        **dict(seed=0, device="cpu") | kwargs,
    )
    if double:
        perturb(model.policy)
        widen_moderately(model.actor.flow)
    return model


def batch(n=40, d=2, seed=4):
    random = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, k, generator=random, dtype=torch.float64) for k in (3, d, 3)]
    dones = (torch.rand(n, 1, generator=random) < 0.3).double()
    return ReplayBufferSamples(rows[0], rows[1], rows[2], dones, torch.randn(n, 1, generator=random).double())


@pytest.mark.parametrize("flow", FLOWS)
@torch.no_grad()
def test_q_minus_v_over_alpha_is_log_pi_and_integrates_to_one(flow):
    model, n = nfq(flow=flow, double=True, ent_coef=0.3), 160
    middles = (np.arange(n) + 0.5) / n
    grid = np.stack(np.meshgrid(*(low + (high - low) * middles for low, high in zip(LOW, HIGH))), -1).reshape(-1, 2)
    state = np.tile(np.float32([[0.1, -0.2, 0.3]]), (len(grid), 1))
    obs = torch.as_tensor(state)
    values = model.critic(obs)
    scaled = 2 * (grid - LOW) / (np.array(HIGH) - LOW) - 1
    u = torch.atanh(torch.as_tensor(scaled))
    q = soft_q(values, model.actor.get_distribution(obs).log_prob(u), 0.3)
    assert q.dtype == torch.float64 and q.shape == (len(grid), 2)
    # log pi on [-1, 1]^d, by another way: the policy's density in the environment's units
    half = torch.as_tensor((np.array(HIGH) - LOW) / 2)
    log_pi = model.policy.log_prob(obs, torch.as_tensor(grid)) + half.log().sum()
    for i in range(2):
        torch.testing.assert_close((q[:, i] - values[:, i]) / 0.3, log_pi, atol=1e-10, rtol=0)
        mass = ((q[:, i] - values[:, i]) / 0.3).exp().sum() * (2 / n) ** 2
        assert mass.item() == pytest.approx(1, abs=5e-3)
    np.testing.assert_allclose(model.q_values(state, grid.astype(np.float32)), q, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("flow", FLOWS)
@torch.no_grad()
def test_v_does_not_depend_on_the_action(flow):
    model, half = nfq(flow=flow, double=True, ent_coef=0.3), (np.array(HIGH) - LOW) / 2
    state = observations(1).expand(2, -1)
    actions = np.array(LOW) + half * [[0.3, 0.8], [1.6, 1.1]]
    log_pi = model.policy.log_prob(state, torch.as_tensor(actions)).numpy() + np.log(half).sum()  # on [-1, 1]^d
    values = model.q_values(state.numpy(), actions) - 0.3 * log_pi[:, None]
    assert abs(log_pi[0] - log_pi[1]) > 0.01
    np.testing.assert_allclose(values[0], values[1], atol=1e-10, rtol=0)
    np.testing.assert_allclose(values, model.critic(state), atol=1e-10, rtol=0)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_gradient_of_the_loss_agrees_with_finite_differences(flow):
    model, data, alpha = nfq(flow=flow, double=True), batch(), torch.tensor(0.4, dtype=torch.float64)
    target = td_target(model.critic_target, data, 0.9)

    def loss():
        log_prob = model.actor.get_distribution(data.observations).log_prob(data.actions)
        return soft_q_loss(model.critic(data.observations), log_prob, alpha, target)

    parameters = [p for module in (model.actor, model.critic) for p in module.parameters()]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        way = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        slope = sum((g * w).sum() for g, w in zip(gradients, way) if g is not None)
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for p, w in zip(parameters, way):
                    p += sign * 1e-6 * w
                values.append(loss())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope.item(), rel=1e-5)


def test_a_replayed_action_counts_for_as_much_as_pi_would_take_it():
    log_prob = torch.tensor([0.0, 2.0, -1.0, -800.0], dtype=torch.float64, requires_grad=True)
    own = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    expected = torch.tensor([1.0, 1.0, math.exp(-2), 0.0]).double()
    weights = importance(log_prob, own, 0.0)
    torch.testing.assert_close(weights, expected / expected.mean())
    assert not weights.requires_grad
    expected = expected.clamp(min=0.25)
    torch.testing.assert_close(importance(log_prob, own, 0.25), expected / expected.mean())
    assert torch.equal(importance(log_prob, own, 1.0), torch.ones(4).double())
    # Actions that pi has all left do not add up to a whole batch of others
    torch.testing.assert_close(
        importance(torch.full((4,), -9.0), torch.zeros(4), 0.0), torch.full((4,), math.exp(-9) * 20)
    )


def test_v_is_not_raised_by_what_pi_has_left():
    """One state, a flow that stays, Q flat where its log pi falls: V by least squares, with and without weights."""
    torch.manual_seed(0)
    pi = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 0.2)
    replayed = torch.linspace(-2, 2, 4_001).double()
    log_prob, own = pi.log_prob(replayed), pi.log_prob(pi.sample(replayed.shape))
    true_value, alpha = 3.0, torch.tensor(0.2).double()
    target = (true_value + alpha * log_prob.clamp(min=-3)).unsqueeze(1)

    def fitted(weights):
        value = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        loss = soft_q_loss(value.expand(len(replayed), 1), log_prob, alpha, target, weights)
        (slope,) = torch.autograd.grad(loss, value, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), value)
        return (-slope / curvature).item()  # quadratic, from zero

    assert fitted(None) > true_value + 2
    assert fitted(importance(log_prob, own, 0.0)) == pytest.approx(true_value, abs=0.01)


def test_the_target_is_masked_by_termination_and_takes_the_lower_value():
    model, data = nfq(double=True), batch()
    with torch.no_grad():
        expected = (
            data.rewards + 0.9 * (1 - data.dones) * model.critic_target(data.next_observations).min(1)[0][:, None]
        )
    torch.testing.assert_close(td_target(model.critic_target, data, 0.9), expected)
    three_steps = data._replace(discounts=torch.full_like(data.rewards, 0.9**3))
    assert not torch.equal(td_target(model.critic_target, three_steps, 0.9), expected)


def test_one_update_moves_flow_values_temperature_and_targets():
    model = nfq(double=True, learning_rate=1e-3)
    groups = dict(actor=model.actor, critic=model.critic, target=model.critic_target)
    before = {name: [p.clone() for p in module.parameters()] for name, module in groups.items()}
    alpha = model.temperature
    update(model, batch(), move_targets=False)
    assert all(torch.equal(a, b) for a, b in zip(before["target"], model.critic_target.parameters()))
    update(model, batch(), move_targets=True)
    for name, module in groups.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], module.parameters())), name
    assert model.temperature != alpha


@pytest.mark.parametrize(
    ("flow", "options", "alpha", "least", "most"),
    [
        ("triangular", {}, 0.005, 0.6, 1.4),
        ("triangular", {}, 1.0, 0.75, 1.25),
        # Where Adam ends here is decided by rounding: 0.30 to 0.48, and 0.75 to 0.97, over initial weights 1e-9 apart
        ("nsf", {}, 0.02, 0.2, 0.6),
        ("nsf", dict(bound=12.0), 0.02, 0.6, 1.15),
    ],
)
def test_log_pi_spans_the_range_of_q_over_alpha(flow, options, alpha, least, most):
    """The base's tail reaches any depth, but beyond the splines' interval in a Gaussian's shape: see docs/nfq.md."""
    policy_kwargs = dict(n_critics=1, flow_kwargs=options)
    model = nfq(flow=flow, double=True, ent_coef=alpha, learning_rate=1e-2, policy_kwargs=policy_kwargs)
    data = batch(64)
    state = torch.zeros_like(data.observations)
    q = 1 - torch.tanh(data.actions).square().sum(1)  # from 1 down to -1
    span = (q.max() - q.min()) / alpha
    optimizers = (model.actor.optimizer, model.critic.optimizer)
    steps = 600
    for step in range(steps):
        log_prob = model.actor.get_distribution(state).log_prob(data.actions)
        loss = soft_q_loss(model.critic(state), log_prob, torch.tensor(alpha).double(), q[:, None])
        for optimizer in optimizers:
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)  # or its last steps decide, by rounding
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    with torch.no_grad():
        log_prob = model.actor.get_distribution(state).log_prob(data.actions)
    assert least < ((log_prob.max() - log_prob.min()) / span).item() < most


def test_what_is_stored_is_the_flows_own_u():
    env = make_vec_env(Aim, n_envs=2)
    model = nfq(env, learning_starts=20)
    model.learn(200)
    buffer = model.replay_buffer
    u = buffer.actions[: buffer.pos]
    assert np.abs(u).max() > 1, "before the tanh"
    executed = model.policy.unscale_action(u.reshape(-1, 2))
    assert (executed >= LOW).all() and (executed <= HIGH).all()
    assert buffer.sample(8).actions.shape == (8, 2)


@pytest.mark.parametrize(
    "ent_coef",
    ["auto_0.2", 0.1, "linear_0.5_0.1", lambda remaining: 0.1 + 0.4 * remaining],
    ids=["learned", "fixed", "linear", "schedule"],
)
def test_the_temperature_is_learned_fixed_or_scheduled(ent_coef, tmp_path):
    model = nfq(flow="gaussian", ent_coef=ent_coef)
    first = model.temperature
    model.learn(100)
    if ent_coef == 0.1:
        assert first == model.temperature == pytest.approx(0.1)
    elif ent_coef == "auto_0.2":
        assert first == pytest.approx(0.2) and model.temperature != first
    else:
        assert first == pytest.approx(0.5) and model.temperature == pytest.approx(0.1, abs=0.01)
    model.save(tmp_path / "model")
    loaded = NFQ.load(tmp_path / "model", env=model.env)
    assert loaded.temperature == model.temperature
    loaded.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize("given", [0.02, "linear_0.02_0.02"])
@pytest.mark.parametrize("saved", [0.5, "linear_0.5_0.4"])
def test_another_temperature_than_the_saved_one_holds(saved, given, tmp_path):
    nfq(flow="gaussian", ent_coef=saved).save(tmp_path / "model")
    model = NFQ.load(tmp_path / "model", env=Aim(), ent_coef=given)
    assert model.ent_coef == given and model.temperature == pytest.approx(0.02)
    model.learn(100)
    assert model.temperature == pytest.approx(0.02)
    with pytest.raises(TypeError, match="fixed in the file and learned"):
        NFQ.load(tmp_path / "model", ent_coef="auto")


def test_a_temperature_that_is_set_by_hand_holds(tmp_path):
    model = nfq(flow="gaussian", ent_coef=0.5).learn(60)
    for wrong, message in ((-1.0, "above zero"), ("auto", "settled when the model is made")):
        model.ent_coef = wrong
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                model.learn(1, reset_num_timesteps=False)
    model.ent_coef = 0.02
    assert model.learn(10, reset_num_timesteps=False).temperature == pytest.approx(0.02)
    model.save(tmp_path / "model")
    assert NFQ.load(tmp_path / "model").temperature == pytest.approx(0.02)


def test_a_learned_temperature_does_not_become_a_fixed_one(tmp_path):
    nfq(flow="gaussian", ent_coef="auto").save(tmp_path / "model")
    with pytest.raises(TypeError, match=r"learned in the file and fixed with ent_coef=0\.1"):
        NFQ.load(tmp_path / "model", ent_coef=0.1)
    with pytest.raises(TypeError, match=r"learned in the file and fixed with ent_coef=0\.1"):
        nfq(flow="gaussian", ent_coef=0.1).set_parameters(tmp_path / "model")


NOT_ABOVE_ZERO = [0, 0.0, -0.1, "0", "linear_0.2_-0.1", lambda _: 0.0, "auto_0", "auto_-1"]
INFINITE = [math.inf, math.nan, "inf", "auto_inf", lambda _: math.inf]
NO_NUMBERS = ["x", "auto_x", "auto_", "autox", "linear_0.5", "linear_x_1", None, [0.1]]


@pytest.mark.parametrize("ent_coef", NOT_ABOVE_ZERO + INFINITE + NO_NUMBERS)
def test_without_a_temperature_nothing_would_be_learned(ent_coef):
    with pytest.raises(ValueError, match='ent_coef must be above zero .a number, .*"auto" or "auto_0.1"., got'):
        nfq(ent_coef=ent_coef)


def test_another_algorithms_file_is_refused_for_its_policy_not_for_its_numbers(tmp_path):
    SNF("FlowPolicy", Aim(), policy_kwargs=dict(net_arch=[8], flow="nsf-ar"), device="cpu").save(tmp_path / "model")
    with pytest.raises(TypeError, match="NFQ has no use for a StochasticFlow.*made for SNF"):
        NFQ.load(tmp_path / "model")


def test_transitions_that_sac_has_collected_are_taken_over_and_the_other_way_round(tmp_path):
    sac = SAC("FlowPolicy", Aim(), learning_starts=300, buffer_size=400, device="cpu")
    sac.learn(200)
    sac.save_replay_buffer(tmp_path / "sac")
    ours = nfq()
    ours.load_replay_buffer(tmp_path / "sac")
    filled, u = sac.replay_buffer.actions[:200], ours.replay_buffer.actions[:200]
    np.testing.assert_allclose(np.tanh(u), filled, atol=1e-4)
    ours.save_replay_buffer(tmp_path / "nfq")
    again = nfq()
    again.load_replay_buffer(tmp_path / "nfq")
    np.testing.assert_array_equal(again.replay_buffer.actions[:200], u)
    sac.load_replay_buffer(tmp_path / "nfq")
    np.testing.assert_allclose(sac.replay_buffer.actions[:200], filled, atol=1e-4)
    assert not sac.replay_buffer.actions[200:].any(), "nothing is there yet"


def test_a_buffer_of_small_actions_is_not_taken_for_sacs(tmp_path):
    model = nfq(learning_starts=300, buffer_size=400)
    model.learn(200)
    model.replay_buffer.actions *= 0.1
    kept = model.replay_buffer.actions.copy()
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    np.testing.assert_array_equal(model.replay_buffer.actions, kept)
    sac = SAC("FlowPolicy", Aim(), buffer_size=400, device="cpu")
    sac.load_replay_buffer(tmp_path / "buffer")
    np.testing.assert_allclose(sac.replay_buffer.actions, np.tanh(kept), rtol=1e-5)


def test_it_learns_and_its_deterministic_action_is_the_densest(tmp_path):
    model = nfq(flow="triangular", learning_rate=1e-2, ent_coef=0.1, learning_starts=100)
    model.learn(500)
    obs = observations(64).numpy()
    action, _ = model.predict(obs, deterministic=True)
    best = (np.array(HIGH) + LOW) / 2 + (np.array(HIGH) - LOW) / 2 * 0.8 * obs[:, :2]
    assert np.abs((action - best) / (np.array(HIGH) - LOW) * 2).mean() < 0.25
    drawn = np.stack([model.predict(obs)[0] for _ in range(8)])
    q = model.q_values(obs, action)[:, 0]
    assert (q >= np.max([model.q_values(obs, a)[:, 0] for a in drawn], 0) - 0.1).mean() > 0.8
    others = [model.q_values(obs, model.env.action_space.sample()[None].repeat(64, 0))[:, 0] for _ in range(8)]
    assert (q.mean() > np.mean(others, 1) + 0.2).all(), "better than any one action in all states"
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(NFQ.load(tmp_path / "model").predict(obs, deterministic=True)[0], action)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_flow_learns_at_a_fraction_of_the_values_rate(scale, tmp_path):
    model = nfq(flow="triangular", learning_rate=4e-3, flow_lr_scale=scale, ent_coef="auto_0.1")
    model.learn(60)  # two updates and more: the fraction is of the schedule's rate, not of the last one
    rates = [optimizer.param_groups[0]["lr"] for optimizer in (model.actor.optimizer, model.critic.optimizer)]
    assert rates == [pytest.approx(4e-3 * scale), 4e-3] and model.ent_coef_optimizer.param_groups[0]["lr"] == 4e-3
    model.save(tmp_path / "model")
    assert NFQ.load(tmp_path / "model").flow_lr_scale == scale
    assert NFQ.load(tmp_path / "model").importance_floor == 0.2
    del model.flow_lr_scale, model.importance_floor  # as those that an earlier version saved
    model.save(tmp_path / "older")
    older = NFQ.load(tmp_path / "older")
    assert older.flow_lr_scale == older.importance_floor == 1.0


def data_set():
    random = np.random.default_rng(0)
    obs = random.uniform(-1, 1, (600, 3)).astype(np.float32)
    actions = random.uniform(LOW, HIGH, (600, 2)).astype(np.float32)
    actions[:1] = HIGH  # on the edge, where u would be infinite
    scaled = 2 * (actions - LOW) / (np.array(HIGH) - LOW) - 1
    rewards = -np.square(scaled - 0.8 * obs[:, :2]).sum(1)
    ends = np.ones(600, bool)
    return Transitions(obs, actions, rewards.astype(np.float32), obs, ends, ~ends)


def test_it_learns_from_a_data_set_without_a_step():
    data, env = data_set(), Aim()
    obs, actions, rewards, ends = data.observations, data.actions, data.rewards, data.terminations
    model = nfq(env, "triangular", learning_rate=1e-2, learning_starts=0, ent_coef=0.1, batch_size=64).learn_from(data)
    assert np.abs(np.tanh(model.replay_buffer.actions)).max() == pytest.approx(1 - EDGE, abs=1e-6)
    model.env.step = None  # it would raise
    model.learn(300)
    action, _ = model.predict(obs, deterministic=True)
    best = (np.array(HIGH) + LOW) / 2 + (np.array(HIGH) - LOW) / 2 * 0.8 * obs[:, :2]
    assert np.abs((action - best) / (np.array(HIGH) - LOW) * 2).mean() < 0.25
    with pytest.raises(ValueError, match="shape"):
        model.learn_from(Transitions(obs[:, :2], actions, rewards, obs, ends, ~ends))


@pytest.mark.parametrize("name", ["rewards", "terminations", "truncations"])
@pytest.mark.parametrize("shape", [(595,), (1_200,), (600, 1), (600, 2), ()], ids=str)
def test_a_data_set_of_another_length_is_refused_and_leaves_the_model_alone(name, shape):
    model = nfq(flow="gaussian", policy_kwargs=dict(normalize_observations=True))
    buffer = model.replay_buffer
    with pytest.raises(ValueError, match=rf"data set's {name} have shape {re.escape(str(shape))}: expected \(600,\)"):
        model.learn_from(replace(data_set(), **{name: np.zeros(shape, bool)}))
    assert model.replay_buffer is buffer and model.buffer_size == 2_000 and model.learning_starts == 50
    assert not model.is_offline and model.policy.normalization.count == 0


def test_a_buffer_that_cannot_be_made_leaves_the_model_alone():
    model = nfq(flow="gaussian", replay_buffer_kwargs=dict(handle_timeout_termination=True))
    buffer, model.replay_buffer_kwargs = model.replay_buffer, dict(unknown=1)
    with pytest.raises(TypeError, match="unknown"):
        model.learn_from(data_set())
    assert model.replay_buffer is buffer and model.buffer_size == 2_000


def test_ends_of_a_data_set_may_be_zeros_and_ones():
    ends = np.arange(600) % 3
    data = replace(data_set(), terminations=(ends == 1).astype(np.float32), truncations=(ends == 2).astype(int))
    buffer = nfq(flow="gaussian").learn_from(data).replay_buffer
    np.testing.assert_array_equal(buffer.dones[:, 0], ends > 0)
    np.testing.assert_array_equal(buffer.timeouts[:, 0], ends == 2)


@pytest.mark.parametrize("wrong", [0.5, 2.0, math.nan])
@pytest.mark.parametrize("name", ["terminations", "truncations"])
def test_ends_of_a_data_set_that_are_neither_are_refused(name, wrong):
    ends = np.append(np.zeros(599), wrong)
    with pytest.raises(
        ValueError, match=f"data set's {name} must be booleans, or zeros and ones, got {wrong} in row 599"
    ):
        nfq(flow="gaussian").learn_from(replace(data_set(), **{name: ends}))


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_rewards_of_a_data_set_are_finite(wrong):
    rewards = data_set().rewards
    rewards[7] = wrong
    with pytest.raises(ValueError, match=f"data set's rewards must be finite, got {wrong} in row 7"):
        nfq(flow="gaussian").learn_from(replace(data_set(), rewards=rewards))


def test_actions_of_a_data_set_in_other_units_are_refused():
    data = data_set()
    with pytest.raises(ValueError, match="actions reach from .*, the environment's are Box.*clip them"):
        nfq(flow="gaussian").learn_from(replace(data, actions=100 * data.actions))


def test_images_of_a_data_set_are_taken_in_either_form():
    space = spaces.Dict(a=spaces.Box(0, 255, (36, 36, 1), np.uint8))
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 36, 36, 1)).astype(np.uint8)
    nothing, ends = np.zeros((4, 2), np.float32), np.zeros(4, bool)
    model = NFQ("FlowMultiInputPolicy", Spaces(space), policy_kwargs=dict(net_arch=[8]), buffer_size=1, device="cpu")
    for given in (images, images.transpose(0, 1, 4, 2, 3)):
        model.learn_from(Transitions(dict(a=given[0]), nothing, nothing[:, 0], dict(a=given[1]), ends, ends))
        buffer = model.replay_buffer
        for i, stored in enumerate((buffer.observations, buffer.next_observations)):
            np.testing.assert_array_equal(stored["a"][:, 0], images[i].transpose(0, 3, 1, 2))


def test_offline_a_policy_normalises_by_the_data_set():
    model = nfq(flow="gaussian", policy_kwargs=dict(normalize_observations=True)).learn_from(data_set())
    model.learn_from(data_set()).learn(20)  # a resumed run gives its data again
    assert model.policy.normalization.count == 600
    np.testing.assert_allclose(model.policy.normalization.mean, data_set().observations.mean(0), rtol=1e-5, atol=1e-6)
    # Behind a VecNormalize it sees what that has made of them.
    model = nfq(VecNormalize(make_vec_env(Aim)), "gaussian", policy_kwargs=dict(normalize_observations=True))
    statistics = model.learn_from(data_set()).policy.normalization
    np.testing.assert_allclose(statistics.mean, 0, atol=1e-5)
    np.testing.assert_allclose(statistics.deviation_squares / 600, 1, rtol=1e-3)


def test_offline_every_step_is_an_update_and_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "LOG_EVERY", 200)
    env = VecNormalize(make_vec_env(Aim))
    model = nfq(env, "gaussian", learning_starts=500, gradient_steps=4, tensorboard_log=str(tmp_path))
    model.learn_from(data_set())
    assert np.allclose(env.obs_rms.mean, data_set().observations.mean(0)) and not env.norm_reward
    seen = []

    class Look(BaseCallback):
        def _on_step(self):
            seen.append(self.locals["new_obs"])
            return True

    model.learn(200, callback=[FlowLogger(every=100), Look()])
    assert model._n_updates == 200 and np.std(seen, 0).min() > 0.5, "rows of the data set, normalised"
    tags = [event.summary.value[0].tag for event in summaries(tmp_path) if event.summary.value]
    assert "train/critic_loss" in tags and "flow/entropy" in tags
    model.save(tmp_path / "model")
    loaded = NFQ.load(tmp_path / "model", env=env)
    with pytest.raises(ValueError, match="learn_from"):
        loaded.learn(10)
    loaded.learn_from(data_set()).learn(10)


def test_offline_callbacks_that_count_episodes_see_none_end():
    model = nfq(flow="gaussian").learn_from(data_set())
    logger = FlowLogger(every=5)
    model.learn(20, callback=[StopTrainingOnMaxEpisodes(1), TaskReturns(), logger])
    assert model.num_timesteps == 20 and not logger.locals["rewards"].any() and "infos" not in logger.locals


def summaries(path):
    (file,) = path.rglob("events.out.*")
    return EventFileLoader(str(file)).Load()


class Shared(FlattenExtractor):
    """An extractor with weights and with statistics of batches."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def forward(self, observations):
        return self.layers(super().forward(observations))


def test_a_shared_extractor_is_clipped_once_and_targets_follow_its_statistics():
    model = nfq(policy_kwargs=dict(features_extractor_class=Shared, share_features_extractor=True), max_grad_norm=1e-3)
    model.learn(60)
    assert model.update_form == "torch"
    (shared,) = [p for n, p in model.actor.named_parameters() if n == "features_extractor.layers.0.weight"]
    actor = torch.stack([p.grad.norm() for p in model.actor.parameters() if p.grad is not None]).norm()
    assert actor.item() == pytest.approx(1e-3, rel=0.01) and shared.grad.norm() > 0
    ours, theirs = (one.features_extractor.layers[1].running_mean for one in (model.critic, model.critic_target))
    assert torch.equal(ours, theirs) and ours.abs().max() > 0


def test_conservatism_is_the_soft_maximum_of_q_less_q_of_the_data():
    """Against the definition: the soft maximum by quadrature."""
    model, n = nfq(double=True, ent_coef=0.3), 120
    data = batch(5)
    a = (torch.arange(n).double() + 0.5) * 2 / n - 1
    grid = torch.cartesian_prod(a, a)
    with torch.no_grad():
        values = model.critic(data.observations)
        expected = 0
        for row in range(5):
            pi = model.actor.get_distribution(data.observations[row].expand(len(grid), -1))
            q = soft_q(values[row], pi.log_prob(grid.atanh()), 0.3)  # (grid, 2)
            expected += 0.3 * torch.logsumexp(q / 0.3 + 2 * math.log(2 / n), 0).sum() / 5
        log_prob = model.actor.get_distribution(data.observations).log_prob(data.actions)
        expected -= soft_q(values, log_prob, 0.3).sum(1).mean()
        torch.testing.assert_close(conservative_loss(log_prob, torch.tensor(0.3), 2), expected, atol=5e-3, rtol=0)


def test_truncated_episodes_of_a_data_set_are_bootstrapped_through():
    n = 4
    obs, actions = np.zeros((n, 3), np.float32), np.zeros((n, 2), np.float32)
    terminations, truncations = np.array([0, 1, 0, 0], bool), np.array([0, 0, 0, 1], bool)
    data = Transitions(obs, actions, np.ones(n, np.float32), obs, terminations, truncations)
    buffer = nfq().learn_from(data).replay_buffer
    np.testing.assert_array_equal(buffer.dones[:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(buffer.timeouts[:, 0], [0, 0, 0, 1])


@pytest.mark.parametrize(
    "flow, words", [("maf", "a sample takes 2 passes"), ("iaf", "a density"), ("ffjord", "integration")]
)
def test_a_slow_flow_runs_with_a_warning_where_it_was_made(flow, words, tmp_path):
    kwargs = dict(flow_kwargs=dict(hidden=[8, 8]))
    with pytest.warns(UserWarning, match=words) as caught:
        model = nfq(flow=flow, policy_kwargs=kwargs).learn(60)
        model.save(tmp_path / "model")
        NFQ.load(tmp_path / "model")
    assert [warning.filename for warning in caught] == [__file__] * 2


def test_a_fast_flow_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nfq()


SLOW = {
    ("maf", 3): "a sample takes 3 passes, one for each action dimension",
    ("nsf-ar", 3): "a sample takes 3 passes, one for each action dimension",
    ("iaf", 3): "a density takes 3 passes, one for each action dimension",
    ("naf", 3): "a sample takes 3 root findings, one for each action dimension",
    ("naf", 1): "a sample takes a root finding a layer",
}


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("flow", available_flows())
def test_what_makes_a_recipe_slow(flow, features):
    if flow == "ffjord":
        expected = "each way is an integration in many steps, and its density is exact only up to their error"
    elif flow == "planar":
        expected = "a density takes a root finding a layer"
    else:
        expected = SLOW.get((flow, features), "")
    assert why_slow(Flow(features, 3, flow)) == expected


def test_with_one_dimension_a_sigmoidal_map_is_slow_in_one_way():
    assert why_slow(Flow(1, 3, "naf", fast_sampling=True)) == "a density takes a root finding a layer"


def zuko_flow(name, **options):
    def build(features, context):
        zuko = pytest.importorskip("zuko", reason="zuko is an optional adapter, not a dependency")
        return getattr(zuko.flows, name)(features, context, hidden_features=(16,), **options)

    return build


@pytest.mark.parametrize(
    "flow, words",
    [
        (EXTERNAL["zuko-nsf"], "a sample calls one of its networks 6 times"),
        (EXTERNAL["nflows-transform"], "a sample calls one of its networks 6 times"),
        (EXTERNAL["nflows-flow"], "a sample calls one of its networks 6 times"),
        (EXTERNAL["normflows-conditional"], "a density calls one of its networks 6 times"),
        (zuko_flow("CNF"), "a density calls one of its networks"),
        (zuko_flow("NICE"), ""),
        (zuko_flow("MAF", passes=2), ""),  # a coupling, by other words
        (EXTERNAL["torch-transformed"], ""),
    ],
)
def test_what_makes_another_librarys_flow_slow(flow, words):
    torch.manual_seed(0)
    flow = Flow(6, 3, flow)
    expected = torch.get_rng_state()
    assert why_slow(flow).startswith(words) and bool(words) == bool(why_slow(flow))
    assert torch.equal(torch.get_rng_state(), expected) and flow.training


class Sampler(nn.Module):
    """Its distribution lacks one of the methods that it has by name, as those of torch and zuko may."""

    def __init__(self, lacks):
        super().__init__()
        self.lacks, self.linear = lacks, nn.Linear(16, 2)

    def forward(self, context):
        normal = torch.distributions.Independent(torch.distributions.Normal(self.linear(context), 1.0), 1)
        distribution = Distribution(normal.batch_shape, normal.event_shape, validate_args=False)
        for name in {"log_prob", "rsample"} - {self.lacks}:
            setattr(distribution, name, getattr(normal, name))
        return distribution


def test_a_flow_without_densities_or_samples_is_refused():
    with pytest.raises(
        ValueError, match=r"log-probs of given actions.* log_prob fails \(NotImplementedError"
    ) as caught:
        nfq(flow=lambda features, context: Sampler("log_prob"))
    assert isinstance(caught.value.__cause__, NotImplementedError)
    with pytest.raises(ValueError, match="has_rsample=False"):
        nfq(flow=lambda features, context: Sampler("rsample"))


@pytest.mark.parametrize(
    "kwargs, words",
    [
        (dict(policy_kwargs=dict(flow="nfs")), "Did you mean"),
        (dict(use_sde=True), "use_sde"),
        *((dict(policy_kwargs=dict(n_critics=n)), "n_critics must be a whole number") for n in (0, -1, 1.5, "a")),
    ],
)
def test_bad_input_is_refused_with_the_cure(kwargs, words):
    with pytest.raises(ValueError, match=words):
        nfq(**kwargs)


OUT_OF_RANGE = {
    "flow_lr_scale": [0, -1, math.nan, math.inf, "a", None],
    "importance_floor": [-0.1, 1.1, math.nan, "a", None],
    "max_grad_norm": [0, -1, math.nan, "a"],
    "cql_weight": [-0.1, math.nan, math.inf, "a", None],
}


@pytest.mark.parametrize("name, value", [(name, value) for name in OUT_OF_RANGE for value in OUT_OF_RANGE[name]])
def test_numbers_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a .*number.*, got {value!r}"):
        nfq(**{name: value})


def test_numbers_are_looked_at_in_load_too(tmp_path):
    nfq(max_grad_norm=None).save(tmp_path / "model")
    assert NFQ.load(tmp_path / "model").max_grad_norm is None
    with pytest.raises(ValueError, match="max_grad_norm must be"):
        NFQ.load(tmp_path / "model", max_grad_norm=-1.0)


def test_discrete_actions_are_refused(tmp_path):
    nfq().save(tmp_path / "model")
    for make in (lambda env: NFQ("FlowPolicy", env), lambda env: NFQ.load(tmp_path / "model", env=gym.make(env))):
        with pytest.raises(ValueError, match=r"continuous action space .*got Discrete\(2\)"):
            make("CartPole-v1")


def test_noise_n_steps_one_value_and_clipped_gradients_train():
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.3))
    model = nfq(
        n_steps=3, action_noise=noise, max_grad_norm=0.5, policy_kwargs=dict(n_critics=1, share_features_extractor=True)
    )
    model.learn(150)
    norms = model.gradient_norms()
    assert 0 < norms["actor"] <= 0.5 + 1e-6 and 0 < norms["critic"] <= 0.5 + 1e-6


def test_dictionaries_of_observations():
    env = Aim()
    space = spaces.Dict(a=OBSERVATIONS)
    wrapped = gym.wrappers.TransformObservation(env, lambda obs: dict(a=obs), space)
    model = NFQ("FlowMultiInputPolicy", wrapped, learning_starts=20, policy_kwargs=dict(net_arch=[8]), device="cpu")
    model.learn(60)
    assert model._n_updates == 40
    obs = dict(a=observations(4).numpy())
    assert model.q_values(obs, model.predict(obs)[0]).shape == (4, 2)


def test_its_update_runs_in_c_where_that_can_be(caplog):
    with caplog.at_level(logging.WARNING):
        assert nfq().update_form == ("C" if HAS_KERNELS else "torch")
    assert HAS_KERNELS == (not caplog.records)
