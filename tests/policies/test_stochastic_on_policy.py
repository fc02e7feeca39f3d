"""Policies whose flow has noise layers: they emit and score paths, and act by their ends."""

import copy
import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import kl_divergence
from torch.distributions import MultivariateNormal, Normal

from flowrl.algorithms import SNF
from flowrl.algorithms.ppo import update
from flowrl.plots.policies import density_figure
from flowrl.policies.density import diagnose, has_density, has_diagnostics, sample_actions
from flowrl.policies.stochastic_on_policy import StochasticFlowActorCriticPolicy
from tests.environments import Aim
from tests.models import ALGORITHMS, BOX, OBSERVATIONS, Precise, build, build_policy, observations, perturb


def stochastic_policy(flow="nsf", action_space=BOX, scale=0.1, double=True, **kwargs):
    torch.manual_seed(0)
    policy = StochasticFlowActorCriticPolicy(
        OBSERVATIONS, action_space, lambda _: 1e-3, net_arch=[16], features_extractor_class=Precise, flow=flow, **kwargs
    )
    perturb(policy, scale)
    return policy.double() if double else policy


@pytest.mark.parametrize("squash_output", [True, False])
@pytest.mark.parametrize(("flow", "noise_layers"), [("nsf", 1), ("nsf", 2), ("triangular", 1), ("gaussian", 1)])
@torch.no_grad()
def test_ratio_is_one_before_the_first_update(flow, noise_layers, squash_output):
    policy = stochastic_policy(flow, noise_layers=noise_layers, squash_output=squash_output)
    obs = observations(64)
    paths, values, log_prob = policy(obs)
    assert paths.shape == (64, 2 * (noise_layers + 1))
    new_values, new_log_prob, bound = policy.evaluate_actions(obs, paths)
    torch.testing.assert_close((new_log_prob - log_prob).exp(), torch.ones(64).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(new_values, values)
    torch.testing.assert_close(policy.path_log_prob(obs, paths), log_prob)
    assert bound.shape == (64,)


@torch.no_grad()
def test_networks_of_their_own_for_actor_and_critic():
    policy = stochastic_policy(share_features_extractor=False)
    obs = observations(8)
    paths, values, log_prob = policy(obs)
    new_values, new_log_prob, _ = policy.evaluate_actions(obs, paths)
    torch.testing.assert_close((values, log_prob), (new_values, new_log_prob))


def reference_log_prob(policy, obs, paths):
    """Of one shear, noise, then mean and scale, and tanh: with torch.distributions alone."""
    h = policy.mlp_extractor.forward_actor(obs.double())
    weight = policy.action_net.context_map.weight
    out = h @ torch.cat((weight[:2], weight[2:] / 8)).T + policy.action_net.context_map.bias
    mean, log_std, shear, raw = out[:, :2], out[:, 2:4], out[:, 4], out[:, 5:7]
    std, variance = log_std.exp(), torch.sigmoid(2 * raw)
    one, zero = torch.ones_like(shear), torch.zeros_like(shear)
    lower = torch.stack((torch.stack((one, zero), -1), torch.stack((shear, one), -1)), -2)
    w, u = paths[:, :2], paths[:, 2:]
    first = MultivariateNormal(torch.zeros(2).double(), scale_tril=lower).log_prob(w)
    last = Normal(mean + std * (1 - variance).sqrt() * w, std * variance.sqrt()).log_prob(u).sum(-1)
    return first + last - (1 - u.tanh().square()).log().sum(-1)


def test_loss_and_gradient_agree_with_a_reference_of_torch_distributions():
    model = SNF(
        "FlowPolicy",
        Aim(),
        policy_kwargs=dict(flow="affine", net_arch=[16], features_extractor_class=Precise),
        ent_coef=0.0,
        n_steps=64,
        seed=0,
        device="cpu",
    )
    policy = model.policy.double()
    perturb(policy, 0.1)
    obs = observations(32)
    with torch.no_grad():
        paths, values, log_prob = policy(obs)
        torch.testing.assert_close(reference_log_prob(policy, obs, paths), log_prob, atol=1e-10, rtol=1e-10)
    advantages = torch.linspace(-1, 2, 32).double()
    old = log_prob + 0.1 * torch.randn(32).double()  # some are clipped
    batch = type("Batch", (), dict(observations=obs, actions=paths, old_values=values.flatten(), old_log_prob=old))
    batch.advantages, batch.returns = advantages, values.flatten()
    loss, logs = update.losses(model, batch, 0.1, None)
    assert 0.1 < logs["clip_fraction"] < 0.9
    policy.zero_grad()
    loss.backward()
    ours = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}

    normalized = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (reference_log_prob(policy, obs, paths) - old).exp()
    expected = -torch.min(normalized * ratio, normalized * ratio.clamp(0.9, 1.1)).mean()
    torch.testing.assert_close(logs["policy_gradient_loss"], expected.detach(), atol=1e-10, rtol=1e-10)
    policy.zero_grad()
    expected.backward()
    compared = 0
    for name, p in policy.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(ours[name], p.grad, atol=1e-10, rtol=1e-8)
            compared += bool(p.grad.any())
    assert compared == 4  # of the trunk and of the context map, weights and biases


@pytest.mark.parametrize("squash_output", [True, False])
@pytest.mark.parametrize(
    "action_space",
    [BOX, spaces.Box(-1.0, 2.0, (1,)), spaces.Box(-1.0, 1.0, (2, 2)), spaces.Box(-np.inf, np.inf, (3,))],
    ids=str,
)
def test_predict_gives_actions_of_the_environment(action_space, squash_output):
    policy = stochastic_policy("triangular", action_space, double=False, squash_output=squash_output)
    for deterministic in (False, True):
        one, _ = policy.predict(np.zeros(3, np.float32), deterministic=deterministic)
        many, _ = policy.predict(np.zeros((5, 3), np.float32), deterministic=deterministic)
        assert one.shape == action_space.shape and action_space.contains(one)
        assert many.shape == (5, *action_space.shape) and all(map(action_space.contains, many))
    # Up to rounding, which some processors' matrix products have row by row.
    np.testing.assert_allclose(many, np.broadcast_to(many[0], many.shape), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        paths = policy(observations(5))[0].numpy()
    actions = policy.unscale_action(paths)
    assert actions.shape == (5, *action_space.shape)
    u = paths[:, paths.shape[1] // 2 :].reshape(actions.shape)
    np.testing.assert_array_equal(actions, policy.unscale_action(u))
    if policy._squash:
        np.testing.assert_allclose(policy.scale_action(actions), u, atol=1e-3)


@torch.no_grad()
def test_deterministic_action_is_that_of_no_noise():
    policy = stochastic_policy("nsf", noise_layers=2)
    obs = observations(4)
    path, _, log_prob = policy(obs, deterministic=True)
    distribution = policy.action_net(policy.mlp_extractor.forward_actor(obs.double()))
    torch.testing.assert_close(path, distribution.center())
    torch.testing.assert_close(log_prob, policy.path_log_prob(obs, path))
    w = distribution.segments[0].call_and_ladj(torch.zeros(4, 2).double())[0]
    torch.testing.assert_close(path[:, :2], w)


def test_what_is_no_log_prob_has_another_name():
    policy = stochastic_policy()
    obs = observations(3)
    with pytest.raises(ValueError, match="noise_layers=1.*integral over all.*path_log_prob"):
        policy.log_prob(obs, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="entropy_bound"):
        policy.entropy(obs)
    assert policy.entropy_bound(obs, 8).shape == (3,)


@torch.no_grad()
def test_without_noise_layers_everything_is_exact():
    policy, parent = stochastic_policy(noise_layers=0), build_policy("PPO", flow="nsf")
    parent.double().load_state_dict(policy.state_dict())
    obs, actions = observations(5), torch.tensor([[0.5, 4.0]]).expand(5, -1)
    assert torch.equal(policy.log_prob(obs, actions), parent.log_prob(obs, actions))
    for ask in (lambda p: p.entropy(obs), lambda p: p(obs)[0], lambda p: p.evaluate_actions(obs, actions)[2]):
        torch.manual_seed(1)
        expected = ask(parent)
        torch.manual_seed(1)
        assert torch.equal(ask(policy), expected)


@pytest.mark.parametrize("squash_output", [True, False])
def test_diagnostics_say_that_it_is_a_bound(squash_output):
    policy = stochastic_policy(squash_output=squash_output)
    obs = observations(512)
    found = diagnose(policy, obs)
    assert set(found) == {"entropy_bound", "saturation", "log_det_min", "log_det_max", "noise_std"}
    with torch.no_grad():
        bound = policy.entropy_bound(obs, 32).mean().item() - np.log((BOX.high - BOX.low) / 2).sum()
    assert found["entropy_bound"] == pytest.approx(bound, abs=0.2)
    assert 0.6 < found["noise_std"] < 0.8 and found["log_det_min"] < found["log_det_max"]
    assert not has_density(policy) and has_diagnostics(policy)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_its_picture_is_of_samples(dimensions):
    policy = stochastic_policy("triangular", spaces.Box(-2.0, 3.0, (dimensions,)), double=False)
    figure = density_figure(policy, np.zeros((2, 3), np.float32), n_samples=256)
    assert figure.axes[0].get_xlim() == (-2.0, 3.0)
    with torch.no_grad():
        assert sample_actions(policy, observations(6)).shape == (6, dimensions)


def test_save_and_load():
    policy = stochastic_policy("nsf", double=False, noise_layers=2, noise_std=0.4, squash_output=False)
    file = io.BytesIO()
    policy.save(file)
    file.seek(0)
    loaded = StochasticFlowActorCriticPolicy.load(file)
    assert (loaded.noise_layers, loaded.noise_std) == (2, 0.4)
    obs = observations(4)
    with torch.no_grad():
        paths, _, log_prob = policy(obs)
        assert torch.equal(loaded.path_log_prob(obs, paths), policy.path_log_prob(obs, paths))
    torch.testing.assert_close(loaded.path_log_prob(obs, paths), log_prob, atol=1e-4, rtol=1e-4)


def test_an_entropy_bonus_raises_the_bound_of_a_narrow_policy():
    """By what `evaluate_actions` returns; the most that [-1, 1] has room for is log 2."""
    policy = stochastic_policy("triangular", spaces.Box(-1.0, 1.0, (1,)), scale=0.0, log_std_init=-1.5)
    obs, paths = observations(64), torch.zeros(64, 2).double()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    bounds = []
    for _ in range(80):
        bound = policy.evaluate_actions(obs, paths)[2].mean()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        bounds.append(bound.item())
    gaussian = 0.5 * np.log(2 * np.pi * np.e) - 1.5  # which a new policy is, but for the tanh
    assert bounds[0] == pytest.approx(gaussian, abs=0.4)
    assert gaussian + 0.5 < np.mean(bounds[-20:]) < np.log(2) + 0.05


# -- TRPO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["triangular", "nsf"])
def test_kl_on_stored_paths_is_flat_at_the_old_policy_and_curved_as_fisher(flow):
    policy = stochastic_policy(flow)
    obs = observations(16)
    with torch.no_grad():
        paths = policy(obs)[0]
        old = policy.get_distribution(obs)
    # Without the backward kernel, which no path's density depends on
    parameters = [p for name, p in policy.action_net.named_parameters() if "_layer" not in name]
    new = policy.get_distribution(obs)
    log_prob = new.log_prob(paths)
    kl = kl_divergence(new, old).mean()
    gradient = torch.autograd.grad(kl, parameters, create_graph=True)
    assert abs(kl.item()) < 1e-12 and all(g.abs().max() < 1e-9 for g in gradient)
    vector = [torch.randn_like(p) for p in parameters]
    product = torch.autograd.grad(sum((g * v).sum() for g, v in zip(gradient, vector)), parameters, retain_graph=True)
    fisher = [torch.zeros_like(p) for p in parameters]
    for one in log_prob:
        score = torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True)
        along = sum((g * v).sum() for g, v in zip(score, vector))
        fisher = [f + g * along / len(log_prob) for f, g in zip(fisher, score)]
    for ours, expected in zip(product, fisher):
        torch.testing.assert_close(ours, expected, atol=1e-7, rtol=1e-6)


@torch.no_grad()
def test_kl_is_that_of_the_old_parameters_after_a_step():
    policy = stochastic_policy("nsf")
    obs = observations(64)
    paths = policy(obs)[0]
    old, before = policy.get_distribution(obs), copy.deepcopy(policy)
    new = policy.get_distribution(obs)
    new.log_prob(paths)
    kl_divergence(new, old)
    for p in policy.action_net.parameters():
        p.data = p.data + 0.02 * torch.randn_like(p)
    new = policy.get_distribution(obs)
    log_ratio = new.log_prob(paths) - before.path_log_prob(obs, paths)
    expected = log_ratio.exp() * log_ratio - log_ratio.expm1()
    assert expected.mean() > 1e-4
    torch.testing.assert_close(kl_divergence(new, old), expected)
    fresh = kl_divergence(policy.get_distribution(obs), before.get_distribution(obs))
    assert (fresh >= 0).all() and fresh.mean() > 1e-4, "on paths of its own, where none were scored"


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kwargs", [dict(noise_layers=1), dict(noise_std=0.5)], ids=str)
def test_other_algorithms_refuse_noise_layers(algorithm, kwargs):
    with pytest.raises(ValueError, match=r"noise_(layers=1|std=0.5): .*exact log-prob.*flowrl.algorithms.SNF"):
        build(algorithm, policy_kwargs=kwargs)


@pytest.mark.parametrize("way", ["average", "densest", "best"])
def test_the_densest_action_is_not_known(way):
    with pytest.raises(ValueError, match="deterministic_action='" + way):
        stochastic_policy(deterministic_action=way)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(noise_layers=-1), "noise_layers must be a whole number"),
        (dict(noise_std=1.5), "noise_std must be a number between 0 and 1"),
        (dict(noise_layers=9), "noise_layers=9 is more than"),
    ],
)
def test_impossible_noise_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        stochastic_policy(**kwargs)


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match=r"continuous action space.*got Discrete\(2\)"):
        SNF("FlowPolicy", gym.make("CartPole-v1"))
