"""A policy that is made for another algorithm is refused when a model is made or loaded, not in training."""

import numpy as np
import pytest
from stable_baselines3.sac import MlpPolicy

from flowrl import policies
from flowrl.algorithms import NFAC, NFQ, PPO, SAC, SNF
from tests.environments import Aim


def make(algorithm, policy, **kwargs):
    return algorithm(policy, Aim(), policy_kwargs=dict(net_arch=[8]), device="cpu", **kwargs)


@pytest.mark.parametrize("algorithm", [NFQ, NFAC])
@pytest.mark.parametrize("policy", [policies.FlowPolicy, MlpPolicy])
def test_sacs_policy_is_neither_nfqs_nor_nfacs(algorithm, policy):
    with pytest.raises(TypeError, match=f'{algorithm.__name__} has no use for a .*Policy.*give it "FlowPolicy"'):
        make(algorithm, policy)


@pytest.mark.parametrize("base", ["ppo", "a2c"])
def test_ppos_policy_is_not_snfs(base):
    with pytest.raises(TypeError, match='has no use for a .*give it "FlowPolicy"'):
        make(SNF, policies.FlowActorCriticPolicy, base=base)


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, policies.FlowPolicy), (SAC, policies.FlowActorCriticPolicy)])
def test_ppos_and_sacs_are_not_each_others(algorithm, policy):
    with pytest.raises(
        TypeError, match=f'{algorithm.__name__} has no use for a {policy.__name__}.*give it "FlowPolicy"'
    ):
        make(algorithm, policy)


@pytest.mark.parametrize("algorithm", [NFQ, NFAC, SNF])
def test_neither_is_theirs_sacs_or_ppos(algorithm, tmp_path):
    model = make(algorithm, "FlowPolicy")
    plain = PPO if algorithm is SNF else SAC
    with pytest.raises(TypeError, match=f"made for {algorithm.__name__}"):
        make(plain, model.policy_class)
    model.save(tmp_path / "model")
    with pytest.raises(TypeError, match="load a file with the class that saved it"):
        plain.load(tmp_path / "model")
    assert algorithm.load(tmp_path / "model").predict(np.zeros(3, np.float32))[0].shape == (2,)
