"""Bring your own flow: a registered builder, of torch's or another library's flows, makes a policy too."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, TanhTransform

import flowrl
from flowrl.flows import recipes
from tests.adapters.external_flows import EXTERNAL
from tests.environments import Aim
from tests.models import OFF_POLICY, assert_same_policy, build, build_policy, head, observations, perturb


class Warped(nn.Module):
    """A Gaussian of the context through one of torch's own transforms."""

    def __init__(self, features: int, context: int):
        super().__init__()
        self.mean = nn.Linear(context, features)
        self.log_std = nn.Linear(context, features)
        self.scale = nn.Parameter(torch.ones(features))
        self.shift = nn.Parameter(torch.zeros(features))

    def forward(self, context: Tensor) -> TransformedDistribution:
        base = Independent(Normal(self.mean(context), self.log_std(context).exp()), 1)
        return TransformedDistribution(base, [AffineTransform(self.shift, self.scale, event_dim=1)])


class Noise(nn.Module):
    """A distribution with log_prob and rsample, and neither a mean nor a base."""

    def __init__(self, features: int, context: int):
        super().__init__()
        self.loc = nn.Linear(context, features)

    def forward(self, context: Tensor) -> "Laplacian":
        return Laplacian(self.loc(context))


class Laplacian:
    """Laplace noise around a point, in as few methods as a flow may have."""

    def __init__(self, loc: Tensor):
        self._noise = torch.distributions.Laplace(loc, 0.3)
        self.batch_shape, self.event_shape = loc.shape[:-1], loc.shape[-1:]

    def log_prob(self, value: Tensor) -> Tensor:
        return self._noise.log_prob(value).sum(-1)

    def rsample(self, shape: tuple[int, ...] = ()) -> Tensor:
        return self._noise.rsample(torch.Size(shape))


def transforms(features: int, context: int) -> list:
    """flowrl's layers and torch's transforms in one list."""
    return [AffineTransform(0.1, 1.5), *recipes.find_flow("affine")(features, context)]


OWN = {"warped": Warped, "noise": Noise, "transforms": transforms} | EXTERNAL


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The builders under their names, for one test."""
    monkeypatch.setattr(recipes, "_RECIPES", dict(recipes._RECIPES))
    for name, builder in OWN.items():
        flowrl.register_flow(name, builder)
    assert set(OWN) <= set(flowrl.available_flows())


@pytest.mark.parametrize(
    ("algorithm", "flow"),
    [*product(("SAC", "PPO"), OWN), *(("TRPO", flow) for flow in OWN if flow not in EXTERNAL)],
)
def test_learns_saves_and_loads(algorithm, flow, tmp_path):
    env = Aim()
    schedule = dict(learning_starts=16, train_freq=16) if algorithm == "SAC" else dict(n_steps=32, batch_size=32)
    model = build(algorithm, env, policy_kwargs=dict(flow=flow), **schedule)
    model.learn(48 if algorithm == "SAC" else 32)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=env)
    assert loaded.policy_kwargs["flow"] == flow
    assert_same_policy(model, loaded, env)


@pytest.mark.parametrize("flow", OWN)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_every_parameter_is_trained(algorithm, flow):
    if algorithm in OFF_POLICY:
        schedule = dict(learning_starts=31, train_freq=32, gradient_steps=1, batch_size=32)
    else:
        schedule = dict(n_steps=32, batch_size=32, n_epochs=1)
    model = build(algorithm, policy_kwargs=dict(flow=flow), **schedule)
    perturb(model.policy)
    parameters = dict(head(model.policy).named_parameters())
    optimizer = model.actor.optimizer if algorithm in OFF_POLICY else model.policy.optimizer
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert parameters and {id(p) for p in parameters.values()} <= held
    model.learn(32)
    dead = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("flow", OWN)
@torch.no_grad()
def test_ratio_is_one_before_the_first_update(flow):
    policy = build_policy("PPO", flow=flow)
    perturb(policy)
    obs = observations(64)
    actions, _, old_log_prob = policy(obs)
    ratio = (policy.evaluate_actions(obs, actions)[1] - old_log_prob).exp()
    torch.testing.assert_close(ratio, torch.ones(64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("option", ["mean", "average", "densest", "best"])
@pytest.mark.parametrize("flow", OWN)
def test_deterministic_actions_repeat(flow, option):
    """Also where there is no mean: a fixed draw decides, and training's random numbers are left alone."""
    policy = build_policy("SAC", flow=flow, deterministic_action=option)
    obs = observations(4).numpy()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, _ = policy.predict(obs, deterministic=True)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(4)
    second, _ = policy.predict(obs, deterministic=True)
    assert (first == second).all()


def test_a_builder_itself_serves_as_the_flow(tmp_path):
    """Not only its name; it survives saving, being importable."""
    env = Aim()
    model = build("PPO", env, policy_kwargs=dict(flow=Warped)).learn(128)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=env)
    assert_same_policy(model, loaded, env)


def test_density_of_an_external_flow_is_squashed_too():
    policy = build_policy("PPO", flow="warped").double()
    obs = observations(1)
    u = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    warped = policy.action_net.external
    latent = policy.mlp_extractor.forward_actor(policy.extract_features(obs))
    expected = TransformedDistribution(warped(latent), TanhTransform()).log_prob(u.tanh())
    torch.testing.assert_close(policy.get_distribution(obs).log_prob(u), expected)


class Wrong(nn.Module):
    """Returns what is no flow: elementwise normals, whose log_prob has one number per feature."""

    def __init__(self, features: int, context: int):
        super().__init__()
        self.mean = nn.Linear(context, features)

    def forward(self, context: Tensor) -> Normal:
        return Normal(self.mean(context), 1.0)


def test_a_flow_over_scalars_is_refused():
    with pytest.raises(ValueError, match=r"event shape \(2,\), got \(\).*Independent"):
        build_policy("SAC", flow=Wrong).predict(observations(1).numpy())


def test_options_reach_the_builder():
    narrow = build_policy("SAC", flow="nsf", flow_kwargs=dict(bins=4, hidden=(8,)))
    wide = build_policy("SAC", flow="nsf")
    count = lambda policy: sum(p.numel() for p in policy.actor.flow.parameters())  # noqa: E731
    assert count(narrow) < count(wide) / 4
