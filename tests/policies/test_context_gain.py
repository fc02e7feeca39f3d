"""On-policy flow policies take smaller steps of their shape; weights keep the gain that they were saved with."""

import pytest
import torch

from tests.models import ON_POLICY, build, env_actions, observations, perturb


def gain_of(model) -> float:
    return model.policy.action_net.context_map.gain


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_it_is_an_eighth_unless_one_is_given(algorithm):
    assert gain_of(build(algorithm)) == 0.125
    assert gain_of(build(algorithm, policy_kwargs=dict(flow_kwargs=dict(context_gain=0.5)))) == 0.5


@torch.no_grad()
@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_weights_of_an_earlier_version_are_those_of_a_gain_of_one(algorithm, tmp_path):
    older = build(algorithm, policy_kwargs=dict(flow_kwargs=dict(context_gain=1.0)))
    perturb(older.policy, 0.3)
    del older.policy_kwargs["flow_kwargs"]  # what an earlier version saved: a gain of one goes without saying
    older.save(tmp_path / "model")
    assert not any("gain" in name for name in older.policy.state_dict())
    loaded = type(older).load(tmp_path / "model", device="cpu")
    obs = observations(8)
    actions = env_actions(older.action_space)
    torch.testing.assert_close(loaded.policy.log_prob(obs, actions), older.policy.log_prob(obs, actions))
    assert gain_of(loaded) == 1.0
    loaded.save(tmp_path / "again")
    assert gain_of(type(older).load(tmp_path / "again", device="cpu")) == 1.0
