"""One update of SAC and of PPO reaches every parameter of the flow, and the right optimiser holds it."""

import pytest
import torch

from tests.models import ALGORITHMS, OFF_POLICY, ON_POLICY, POLICY_FLOWS, build, head, perturb


def update_once(algorithm: str, flow, perturbed: bool):
    """A model after one gradient step; gradients of the actor's loss are still there."""
    if algorithm in OFF_POLICY:
        schedule = dict(learning_starts=63, train_freq=64, gradient_steps=1, batch_size=64)
    else:
        schedule = dict(n_steps=64, batch_size=64, n_epochs=1)
    model = build(algorithm, policy_kwargs=dict(flow=flow), **schedule)
    if perturbed:
        perturb(model.policy)
    model.learn(64)
    assert model._n_updates == 1
    return model


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_every_flow_parameter_has_a_gradient_at_the_start(algorithm, flow):
    model = update_once(algorithm, flow, perturbed=False)
    missing = [name for name, p in head(model.policy).named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_every_flow_parameter_moves_once_trained_a_little(algorithm, flow):
    """At the start a zero last layer hides those before it; anywhere else nothing is cut off."""
    model = update_once(algorithm, flow, perturbed=True)
    dead = [name for name, p in head(model.policy).named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_policy_optimiser_holds_every_flow_parameter_once(algorithm, flow):
    model = build(algorithm, policy_kwargs=dict(flow=flow))
    optimizer = model.actor.optimizer if algorithm in OFF_POLICY else model.policy.optimizer
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert {id(p) for p in head(model.policy).parameters()} <= set(held)
    expected = model.actor.parameters() if algorithm in OFF_POLICY else model.policy.parameters()
    assert set(held) == {id(p) for p in expected}, "and nothing that is gone, like the Gaussian's head"


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_optimiser_settings_of_the_user_are_kept(algorithm):
    kwargs = dict(optimizer_class=torch.optim.SGD, optimizer_kwargs=dict(momentum=0.7))
    optimizer = build(algorithm, policy_kwargs=kwargs, learning_rate=0.02).policy.optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.7 and optimizer.defaults["lr"] == 0.02
