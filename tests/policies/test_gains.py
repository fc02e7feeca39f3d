"""On-policy flow policies take smaller steps of their shape; weights keep the gain that they were saved with."""

import pytest
import torch

import flowrl
from flowrl.export import load_policy, save_policy
from tests.environments import Aim
from tests.models import ALGORITHMS, ON_POLICY, build, env_actions, observations, perturb


def gain_of(model) -> float:
    return model.policy.action_net.context_map.gain


def conditioner_gain_of(model) -> float:
    (gain,) = {conditioner.gain for conditioner in model.policy.action_net.conditioners}
    return gain


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_it_is_an_eighth_unless_one_is_given(algorithm):
    plain = build(algorithm, policy_kwargs=dict(flow="nsf"))
    given = dict(context_gain=0.5, conditioner_gain=0.25)
    assert (gain_of(plain), conditioner_gain_of(plain)) == (0.125, 0.125)
    other = build(algorithm, policy_kwargs=dict(flow="nsf", flow_kwargs=given))
    assert (gain_of(other), conditioner_gain_of(other)) == (0.5, 0.25)


@torch.no_grad()
@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_weights_of_an_earlier_version_are_those_of_a_gain_of_one(algorithm, tmp_path):
    plain = dict(flow="nsf", flow_kwargs=dict(context_gain=1.0, conditioner_gain=1.0))
    older = build(algorithm, policy_kwargs=plain)
    perturb(older.policy, 0.3)
    del older.policy_kwargs["flow_kwargs"]  # what an earlier version saved: a gain of one goes without saying
    state_dict = older.policy.state_dict()
    for name in [name for name in state_dict if name.endswith(".weight_gain")]:
        del state_dict[name]
        state_dict._metadata[name.removesuffix(".weight_gain")]["version"] = 1
    older.policy.state_dict = lambda: state_dict
    older.save(tmp_path / "model")
    del older.policy.state_dict
    loaded = type(older).load(tmp_path / "model", device="cpu")
    obs = observations(8)
    actions = env_actions(older.action_space)
    torch.testing.assert_close(loaded.policy.log_prob(obs, actions), older.policy.log_prob(obs, actions))
    assert (gain_of(loaded), conditioner_gain_of(loaded)) == (1.0, 1.0)
    loaded.save(tmp_path / "again")
    assert gain_of(type(older).load(tmp_path / "again", device="cpu")) == 1.0


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_a_start_from_a_gaussian_has_it_too(algorithm):
    warm = flowrl.from_gaussian(ALGORITHMS[algorithm][0]("MlpPolicy", Aim(), device="cpu"), "nsf")
    assert gain_of(warm) == 0.125


@torch.no_grad()
@pytest.mark.parametrize("is_older", [False, True])
def test_a_file_of_tensors_has_it(tmp_path, is_older):
    pytest.importorskip("safetensors")
    from safetensors import safe_open
    from safetensors.torch import save_file

    model, obs = build("PPO", policy_kwargs=dict(flow="nsf")), observations(8)
    if is_older:
        model.policy.action_net.set_context_gain(1.0)
        model.policy.action_net.set_conditioner_gain(1.0)
    perturb(model.policy, 0.3)
    path = save_policy(model, tmp_path / "policy.safetensors")
    if is_older:
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
        for name in [name for name in tensors if name.endswith(".weight_gain")]:
            del tensors[name]
        save_file(tensors, path, metadata)
    actions = env_actions(model.action_space)
    opened = load_policy(path, device="cpu")
    torch.testing.assert_close(opened.log_prob(obs, actions), model.policy.log_prob(obs, actions), rtol=0, atol=0)
