"""A device is never assumed: on torch's meta device, which no tensor of another can join, every flow and loss runs."""

import pytest
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples, RolloutBufferSamples
from torch.overrides import TorchFunctionMode

from flowrl import Flow
from flowrl.algorithms import NFAC, NFQ
from flowrl.algorithms.nfac import update as nfac
from flowrl.algorithms.nfq import update as nfq
from flowrl.algorithms.ppo import update as ppo
from flowrl.algorithms.sac import update as sac
from tests.environments import Aim
from tests.models import FLOWS, build

BATCH, META = 4, torch.device("meta")
SMALL = {"naf": dict(layers=1), "ffjord": dict(steps=1), "planar": dict(layers=1)}  # root finds and solver steps


@pytest.mark.parametrize(("d", "context"), [(1, 0), (2, 3)])
@pytest.mark.parametrize("name", FLOWS)
def test_flows_run_on_the_device_of_their_weights(name, d, context):
    flow = Flow(d, context, name, **SMALL.get(name, {})).to(META)
    distribution = flow(torch.empty(BATCH, context, device=META) if context else None)
    batch = (BATCH,) if context else ()
    x, log_prob = distribution.rsample_and_log_prob((2,))
    assert x.shape == (2, *batch, d) and log_prob.shape == (2, *batch)
    (x.sum() + log_prob.sum()).backward()
    assert distribution.mode().device == distribution.mode(5).device == META
    assert distribution.log_prob(torch.empty(*batch, d, device=META)).shape == batch


class GeneratorsOfTheirDevice(TorchFunctionMode):
    """As on CUDA: nothing is drawn on one device by the generator of another."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        generator, device = (kwargs or {}).get("generator"), (kwargs or {}).get("device")
        if generator is not None:
            assert generator.device == torch.device(device or torch.get_default_device()), func
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", [name for name in FLOWS if name != "waveglow"])  # compares what it builds
def test_flows_are_made_and_run_on_a_default_device(name):
    with META, GeneratorsOfTheirDevice():
        flow = Flow(3, 2, name, **SMALL.get(name, {}) | (dict(rank=1) if name == "triangular" else {}))
        assert {tensor.device for tensor in (*flow.parameters(), *flow.buffers())} == {META}
        distribution = flow(torch.empty(BATCH, 2))
        assert distribution.rsample().device == distribution.mode(5).device == META


@pytest.mark.parametrize("flow", ["triangular", "nsf"])
def test_losses_of_sac_run_on_the_device_of_the_networks(flow):
    model = build("SAC", policy_kwargs=dict(flow=flow))
    model.policy.to(META)
    batch = ReplayBufferSamples(*(torch.empty(BATCH, n, device=META) for n in (3, 2, 3, 1, 1)))
    actions, log_prob = model.actor.action_log_prob(batch.observations)
    log_ent_coef = torch.empty(1, device=META, requires_grad=True)
    next_q, next_log_prob = sac.next_value(model.actor, model.critic_target, batch.next_observations)
    target = sac.td_target(batch, next_q, next_log_prob, log_ent_coef.exp(), 0.99)
    losses = (
        sac.temperature_loss(log_ent_coef, log_prob, -2.0),
        sac.critic_loss(model.critic(batch.observations, batch.actions), target),
        sac.actor_loss(model.critic, batch.observations, actions, log_prob, log_ent_coef.exp()),
    )
    assert all(loss.shape == () and loss.device == META for loss in losses)
    sum(losses).backward()


@pytest.mark.parametrize("flow", ["triangular", "nsf"])
def test_losses_of_ppo_run_on_the_device_of_the_networks(flow):
    model = build("PPO", policy_kwargs=dict(flow=flow))
    model.policy.to(META)
    numbers = (torch.empty(BATCH, device=META) for _ in range(4))
    batch = RolloutBufferSamples(*(torch.empty(BATCH, n, device=META) for n in (3, 2)), *numbers)
    loss, _ = ppo.losses(model, batch, 0.2, 0.2)
    assert loss.shape == () and loss.device == META
    loss.backward()


@pytest.mark.parametrize("critic", ["flow", "categorical", "quantile", "scalar"])
@pytest.mark.parametrize("architecture", [None, dict(norm="layer", residual=True, input_shift=3.0), dict(norm="batch")])
def test_losses_of_nfac_run_on_the_device_of_the_networks(critic, architecture):
    network = dict(net_arch=[16], normalize_observations=True, architecture=architecture)
    risk = "neutral" if critic == "scalar" else "cvar:0.5"
    model = NFAC("FlowPolicy", Aim(), critic=critic, risk=risk, policy_kwargs=network, device="cpu")
    model.policy.to(META).set_training_mode(False)
    batch = ReplayBufferSamples(*(torch.empty(BATCH, n, device=META) for n in (3, 2, 3, 1, 1)))
    head, ent_coef = model.critic.head, torch.empty((), device=META)
    actions, log_prob = model.actor.action_log_prob(batch.observations)
    next_atoms = nfac.pessimistic(head.atoms(model.critic_target.raw(batch.next_observations, actions)), 0)
    target = nfac.td_target(next_atoms, log_prob, batch, ent_coef, 0.99, 2.0, head)
    raw = model.critic.raw(batch.observations, actions)
    losses = (
        nfac.critic_loss(head, raw, head.smooth(target.atoms)),
        nfac.actor_loss(head.atoms(raw), model.distortion, log_prob, ent_coef, smallest=True),
    )
    assert all(loss.shape == () and loss.device == META for loss in (*losses, target.clipped))
    sum(losses).backward()


def test_losses_of_nfq_run_on_the_device_of_the_networks():
    model = NFQ("FlowPolicy", Aim(), policy_kwargs=dict(net_arch=[16]), device="cpu")
    model.policy.to(META)
    batch = ReplayBufferSamples(*(torch.empty(BATCH, n, device=META) for n in (3, 2, 3, 1, 1)))
    ent_coef = torch.empty((), device=META)
    log_prob = model.actor.get_distribution(batch.observations).distribution.log_prob(batch.actions)
    values, target = model.critic(batch.observations), nfq.td_target(model.critic_target, batch, 0.99)
    loss = nfq.soft_q_loss(values, log_prob, ent_coef, target) + nfq.conservative_loss(log_prob, ent_coef, 2)
    assert loss.shape == () and loss.device == META
    loss.backward()
