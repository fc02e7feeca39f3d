"""A flow policy copies, pickles and saves at any time, with every argument that built it."""

import copy
import pickle

import cloudpickle
import numpy as np
import pytest
import torch

from flowrl.algorithms import SNF
from flowrl.policies import FlowActorCriticPolicy
from tests.environments import Aim
from tests.models import (
    ALGORITHMS,
    POLICY_FLOWS,
    assert_same_policy,
    build,
    build_policy,
    head,
    observations,
    perturb,
)


def use(policy) -> None:
    """Sample, score and differentiate, as training does."""
    obs = observations(4)
    policy.predict(obs.numpy())
    policy.log_prob(obs, torch.ones(4, 2)).sum().backward()
    policy.entropy(obs).sum().backward()


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickled(pickle, p), lambda p: pickled(cloudpickle, p)])
def test_a_used_policy_copies_and_pickles(algorithm, flow, copied):
    policy = build_policy(algorithm, flow=flow)
    perturb(policy)
    use(policy)
    policy.lr_schedule = None  # SB3's actor-critic policies hold none; build_policy's is a lambda
    twin = copied(policy)
    assert_same_policy(policy, twin, Aim())
    perturb(policy, seed=9)
    assert not torch.equal(head(policy).state_dict()["context_map.bias"], head(twin).state_dict()["context_map.bias"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policy_kwargs_survive_saving(algorithm, tmp_path):
    kwargs = dict(flow="nsf", flow_kwargs=dict(layers=3, bins=5, hidden=[8]), activation_fn=torch.nn.ELU)
    model = build(algorithm, policy_kwargs=kwargs)
    perturb(head(model.policy))
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert kwargs.items() <= loaded.policy_kwargs.items()
    assert len(head(loaded.policy).layers) == 3
    assert_same_policy(model, loaded, Aim())


@pytest.mark.parametrize("kwargs", [{}, dict(squash_output=False), dict(flow="nsf", flow_kwargs=dict(bins=4))])
def test_a_policy_alone_remembers_how_it_was_built(kwargs, tmp_path):
    policy = build_policy("PPO", **kwargs)
    perturb(policy)
    policy.save(tmp_path / "policy.pt")
    loaded = FlowActorCriticPolicy.load(tmp_path / "policy.pt")
    assert loaded.squash_output == kwargs.get("squash_output", True)
    assert_same_policy(policy, loaded, Aim())


def test_a_model_saved_when_another_flow_was_the_default_names_the_cure(tmp_path):
    model = build("PPO", policy_kwargs=dict(flow="triangular"))
    perturb(head(model.policy))
    del model.policy_kwargs["flow"]
    model.save(tmp_path / "old")
    with pytest.raises(RuntimeError, match='it was "triangular" before: give policy_kwargs=dict.flow="triangular"'):
        type(model).load(tmp_path / "old")
    with pytest.raises(ValueError, match='unexpected keyword.*it was "triangular" before'):
        build("PPO", policy_kwargs=dict(flow_kwargs=dict(bins=4)))
    with pytest.raises(ValueError, match="unexpected keyword") as raised:
        SNF("FlowPolicy", Aim(), policy_kwargs=dict(flow_kwargs=dict(bogus=4)))
    assert "affine" not in str(raised.value), "which SNF's default never was"
    kwargs = model.policy_kwargs | dict(flow="triangular")
    assert_same_policy(model, type(model).load(tmp_path / "old", custom_objects=dict(policy_kwargs=kwargs)), Aim())


@pytest.mark.parametrize(
    "kwargs", [dict(net_arch=[4]), dict(flow="nsf", net_arch=[8]), dict(flow="affine", net_arch=[8])]
)
def test_other_networks_and_named_flows_have_torchs_error_alone(kwargs):
    weights = build_policy("PPO", flow="triangular", net_arch=[8]).state_dict()
    with pytest.raises(RuntimeError, match="Error.s. in loading state_dict") as raised:
        build_policy("PPO", **kwargs).load_state_dict(weights)
    assert "before" not in str(raised.value)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_parameters_go_from_model_to_model(algorithm):
    first, second = build(algorithm), build(algorithm, seed=1)
    perturb(first.policy)
    second.set_parameters(first.get_parameters())
    assert_same_policy(first, second, Aim())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_logs_no_std(algorithm):
    """SB3 logs `train/std` where a policy has `log_std`: no flow's spread."""
    model = build(algorithm)
    assert not hasattr(model.policy, "log_std")
    assert not hasattr(getattr(model, "actor", None), "log_std")
    model.learn(128, log_interval=10_000)
    logged = model.logger.name_to_value
    assert any(name.startswith("train/") for name in logged)
    assert "train/std" not in logged


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_an_evolution_strategy_may_add_noise_to_every_weight(algorithm):
    """The example of SB3's documentation, at a flow that has orders and indices."""
    model = build(algorithm, policy_kwargs=dict(flow="glow"))
    torch.manual_seed(0)  # a gain of PPO falls below zero
    before, _ = model.predict(states := observations(4).numpy(), deterministic=True)
    weights = {name: value + 0.1 * torch.randn_like(value) for name, value in model.policy.state_dict().items()}
    model.policy.load_state_dict(weights)
    after, _ = model.predict(states, deterministic=True)
    assert np.isfinite(after).all() and not np.allclose(before, after)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_submodule_in_evaluation_is_set_back_for_training(algorithm):
    policy = build_policy(algorithm)
    policy.set_training_mode(True)
    head(policy).eval()
    policy.set_training_mode(True)
    assert all(module.training for module in head(policy).modules())


def pickled(module, policy):
    """There and back."""
    return pickle.loads(module.dumps(policy))
