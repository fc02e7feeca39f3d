"""The actor's part of an update: the kernel's form of it is the one by autograd."""

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from flowrl.algorithms import actors
from flowrl.algorithms.flat import FlatParameters
from flowrl.algorithms.networks import float32, stacked_order
from flowrl.native import library
from flowrl.policies import FlowPolicy
from tests.models import Precise, perturb

pytestmark = pytest.mark.skipif(library.load(torch.float64) is None, reason="no C compiler: install gcc")
KERNEL_FLOWS = {"triangular": {}, "affine": {}, "realnvp": dict(hidden=(16, 16)), "nsf": dict(hidden=(16,))}
CASES = [
    (flow, d) for flow in KERNEL_FLOWS for d in (1, 2, 3, 17) if (flow, d) != ("realnvp", 1)
]  # which is no coupling


def make(flow: str, d: int, **options) -> tuple[SACPolicy, FlatParameters, actors.StackedActor]:
    torch.manual_seed(0)
    box = spaces.Box(-1.0, 1.0, (d,))
    policy = FlowPolicy(
        spaces.Box(-1.0, 1.0, (3,)),
        box,
        lambda _: 1e-3,
        net_arch=[24, 24],
        features_extractor_class=Precise,
        flow=flow,
        flow_kwargs=options,
    ).double()
    perturb(policy.actor, 0.1)
    actor = policy.actor
    network = actors.PlainNetwork.read(actor.latent_pi)
    first = stacked_order([actors.actor_layers(actor, network)])
    taken = set(map(id, first))
    flat = FlatParameters([*first, *(p for p in actor.parameters() if id(p) not in taken)])
    return policy, flat, actors.stacked_actor(actor, flat, network, float32)


@pytest.mark.parametrize(("flow", "d"), CASES)
def test_kernels_and_autograd_agree(flow, d):
    policy, flat, kernel = make(flow, d, **KERNEL_FLOWS[flow])
    assert type(kernel) is actors.KernelActor
    reference = actors.AutogradActor(policy.actor, flat)
    obs, next_obs = torch.randn(2, 70, 3, dtype=torch.float64)
    batch = ReplayBufferSamples(obs, None, next_obs, None, None)
    features = [policy.actor.extract_features(part, policy.actor.features_extractor) for part in (obs, next_obs)]
    to_action, to_log_prob = torch.randn(70, d, dtype=torch.float64), torch.randn(70, dtype=torch.float64)
    found = []
    for form in (reference, kernel):
        torch.manual_seed(5)
        torch.set_default_dtype(torch.float64)
        sampled, next_sampled = form.sample(batch, *features)
        torch.set_default_dtype(torch.float32)
        form.backward(to_action, to_log_prob)
        found.append([*sampled, *next_sampled, flat.gradient.clone()])
    for theirs, ours in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("flow", ["maf", "ffjord"])
def test_a_flow_of_other_steps_goes_by_autograd(flow):
    assert type(make(flow, 2)[2]) is actors.StackedActor


def test_a_parameter_that_the_kernel_does_not_see_goes_by_autograd():
    policy, _, _ = make("triangular", 2)
    policy.actor.extra = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    actor = policy.actor
    network = actors.PlainNetwork.read(actor.latent_pi)
    first = stacked_order([actors.actor_layers(actor, network)])
    flat = FlatParameters([*first, actor.extra])
    assert type(actors.stacked_actor(actor, flat, network, float32)) is actors.StackedActor


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("flow", KERNEL_FLOWS)
def test_the_kernel_acts_as_the_policy_does(flow, d):
    policy, _, kernel = make(flow, d, **({} if (flow, d) == ("realnvp", 1) else KERNEL_FLOWS[flow]))
    if type(kernel) is not actors.KernelActor:
        pytest.skip("one dimension has no coupling")
    obs = torch.randn(5, 3, dtype=torch.float64)
    for deterministic in (True, False):
        torch.manual_seed(7)
        expected = policy._predict(obs, deterministic)
        after = torch.rand(())
        torch.manual_seed(7)
        torch.testing.assert_close(kernel.act(obs, deterministic), expected, rtol=1e-10, atol=1e-10)
        assert torch.rand(()) == after, "the same random numbers were drawn"
    with pytest.raises(ValueError, match="not finite"):
        kernel.act(obs * torch.nan, False)
