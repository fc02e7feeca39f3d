"""The actor's part of an update: the stack of its network gives what autograd gives."""

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import SACPolicy

from flowrl.kernels import actors
from flowrl.kernels.flat import FlatParameters
from flowrl.kernels.networks import float32, stacked_order
from flowrl.kernels.plain_network import PlainNetwork
from flowrl.policies import FlowPolicy
from tests.models import Precise, perturb

FLOWS = {"triangular": {}, "realnvp": dict(hidden=(16, 16)), "nsf": dict(hidden=(16,)), "maf": dict(hidden=(16,))}


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
    network = PlainNetwork.read(actor.latent_pi)
    first = stacked_order([actors.actor_layers(actor, network)])
    taken = set(map(id, first))
    flat = FlatParameters([*first, *(p for p in actor.parameters() if id(p) not in taken)])
    return policy, flat, actors.StackedActor(actor, flat, network, float32)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("d", [2, 17])
def test_a_stack_and_autograd_agree(flow, d):
    policy, flat, stacked = make(flow, d, **FLOWS[flow])
    reference = actors.AutogradActor(policy.actor, flat)
    obs, next_obs = torch.randn(2, 70, 3, dtype=torch.float64)
    batch = ReplayBufferSamples(obs, None, next_obs, None, None)
    features = [policy.actor.extract_features(part, policy.actor.features_extractor) for part in (obs, next_obs)]
    to_action, to_log_prob = torch.randn(70, d, dtype=torch.float64), torch.randn(70, dtype=torch.float64)
    found = []
    for form in (reference, stacked):
        torch.manual_seed(5)
        torch.set_default_dtype(torch.float64)
        sampled, next_sampled = form.sample(batch, *features)
        torch.set_default_dtype(torch.float32)
        form.backward(to_action, to_log_prob)
        found.append([*sampled, *next_sampled, flat.gradient.clone()])
    for theirs, ours in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
