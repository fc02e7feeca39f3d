"""A whole update of SAC by the kernel is that in torch: gradients, parameters, losses, random numbers."""

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces

from flowrl import algorithms
from flowrl.algorithms.sac.replay import sample
from flowrl.flows import recipes
from flowrl.kernels import library, networks
from tests.models import KERNEL_CASES, KERNEL_FLOWS, Precise, perturb

pytestmark = pytest.mark.skipif(library.load(torch.float64) is None, reason="no C compiler: install gcc")


@pytest.fixture(autouse=True)
def double_precision(monkeypatch):
    monkeypatch.setattr(networks, "STATELESS_EXTRACTORS", networks.STATELESS_EXTRACTORS | {Precise})
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Spaces(Env):
    """Nothing but spaces."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))

    def __init__(self, d: int):
        self.action_space = spaces.Box(-1.0, 1.0, (d,))


def make(d: int, flow: str = "triangular", **settings) -> algorithms.SAC:
    """A model that has seen a few transitions."""
    policy_kwargs = dict(net_arch=[24, 16], features_extractor_class=Precise, flow=flow, flow_kwargs=KERNEL_FLOWS[flow])
    settings = dict(policy_kwargs=policy_kwargs, buffer_size=200, seed=0, device="cpu", learning_rate=1e-2) | settings
    model = algorithms.SAC("FlowPolicy", Spaces(d), **settings)
    perturb(model.policy, 0.1)
    random = np.random.default_rng(0)
    for _ in range(150):
        obs, next_obs, action = (
            random.uniform(-1, 1, (1, 3)),
            random.uniform(-1, 1, (1, 3)),
            random.uniform(-1, 1, (1, d)),
        )
        model.replay_buffer.add(obs, next_obs, action, random.normal(size=1), random.random(1) < 0.2, [{}])
    return model


def one_update(model: algorithms.SAC, by_kernel: bool, size: int) -> list[torch.Tensor]:
    """Whatever an update changes or returns."""
    fast = model._fast
    fast.attach()
    np.random.seed(0)
    torch.manual_seed(0)
    batch = sample(model.replay_buffer, size, None)
    features, next_features = map(fast._features, (batch.observations, batch.next_observations))
    if by_kernel:
        losses = fast.kernel.update(batch, features, next_features, True)
    else:
        losses = fast._update(batch, features, next_features)
        fast.target.data.lerp_(fast.critic_optimizer.flat.data, model.tau)
    states = [state for state in fast.critic_optimizer.state.values()]
    return [
        torch.tensor([float(loss) for loss in losses]),
        *(part.clone() for flat in fast.flats for part in (flat.gradient, flat.data)),
        *(value.double() for state in states for value in state.values()),
        torch.rand(()),  # as many random numbers have been drawn
    ]


def assert_alike(theirs: list[torch.Tensor], ours: list[torch.Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 70, 130])
@pytest.mark.parametrize(("flow", "d"), KERNEL_CASES)
def test_update(flow, d, size):
    assert_alike(one_update(make(d, flow), False, size), one_update(make(d, flow), True, size))


def test_updates_of_several_sizes_in_turn():
    models = [make(2), make(2)]
    for size in (5, 64, 100, 5, 64):
        theirs, ours = (one_update(model, by_kernel, size) for model, by_kernel in zip(models, (False, True)))
        assert_alike(theirs, ours, 1e-7)  # Adam divides by what starts near zero


def test_after_the_operations_have_had_their_turn():
    """They use the same memory."""
    models = [make(2), make(2)]
    for by_kernel in (True, False, True):
        assert_alike(one_update(models[0], False, 32), one_update(models[1], by_kernel, 32), 1e-7)


def test_what_is_not_a_number_is_not_hidden():
    model = make(2)
    model.replay_buffer.rewards[:] = np.nan
    losses = one_update(model, True, 32)[0]
    assert losses[2].isnan() and not losses[0].isnan()


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("network", [0, 1])
@pytest.mark.parametrize("which", ["critic", "critic_target"])
def test_a_critic_that_is_not_a_number_is_the_least(which, network, by_kernel):
    model = make(2)
    with torch.no_grad():
        getattr(model, which).q_networks[network][-1].bias.fill_(torch.nan)
    losses = one_update(model, by_kernel, 32)[0]
    assert losses[2].isnan() and losses[3].isnan()
    assert any(parameter.isnan().any() for parameter in model.actor.parameters())


def test_a_temperature_of_another_precision_goes_by_the_operations():
    torch.set_default_dtype(torch.float32)
    model = make(2)
    model.policy.double()
    model._prepare()
    assert model._fast.kernel is None
    one_update(model, False, 32)


@pytest.mark.parametrize("flow", ["maf", "planar"])
def test_a_flow_of_other_steps_goes_by_the_operations(flow, monkeypatch):
    monkeypatch.setitem(KERNEL_FLOWS, flow, {})
    assert make(2, flow)._fast.kernel is None


@pytest.mark.parametrize("owner", ["actor", "critic"])
def test_a_parameter_that_the_kernel_does_not_see_goes_by_the_operations(owner):
    model = make(2)
    module = getattr(model, owner)
    module.extra = torch.nn.Parameter(torch.zeros(1))
    module.optimizer = torch.optim.Adam(module.parameters())
    model._prepare()
    assert model._fast is not None and model._fast.kernel is None


def test_layers_that_share_weights_go_by_the_operations(monkeypatch):
    """Where the second one's gradients would overwrite the first one's."""
    monkeypatch.setitem(recipes._RECIPES, "twice", lambda features, context: [*recipes.nsf(features, context)] * 2)
    monkeypatch.setitem(KERNEL_FLOWS, "twice", {})
    assert make(2, "twice")._fast.kernel is None
