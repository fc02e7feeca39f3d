"""Flow policies under the unmodified algorithms: train, save, load, evaluate, in every setting of SB3's."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from tests.environments import Aim
from tests.models import (
    ALGORITHMS,
    OFF_POLICY,
    POLICY_FLOWS,
    assert_same_policy,
    build,
    build_policy,
    head,
    perturb,
    states,
)

STEPS = 128


def test_every_algorithm_knows_the_flow_policies():
    for algorithm, (cls, _) in ALGORITHMS.items():
        missing = {"FlowPolicy", "FlowCnnPolicy", "FlowMultiInputPolicy"} - cls.policy_aliases.keys()
        assert missing == ({"FlowCnnPolicy", "FlowMultiInputPolicy"} if algorithm == "CrossQ" else set())
        assert {"MlpPolicy"} <= cls.policy_aliases.keys(), "SB3's own policies stay"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learns_saves_and_loads(algorithm, tmp_path):
    env = Aim()
    model = build(algorithm, env, learning_rate=3e-3)
    before = [parameter.clone() for parameter in head(model.policy).parameters()]
    model.learn(STEPS)
    assert model.num_timesteps >= STEPS
    changed = [not torch.equal(a, b) for a, b in zip(before, head(model.policy).parameters(), strict=True)]
    assert all(changed), "training reaches every tensor of the default flow"

    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=env)
    assert_same_policy(model, loaded, env)
    returns, _ = evaluate_policy(loaded, Monitor(env), n_eval_episodes=2)
    assert np.isfinite(returns)
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps >= STEPS + 64


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "CrossQ"])
def test_learns_from_dictionaries_of_observations(algorithm, tmp_path):
    """Four environments side by side; CrossQ itself has no such policy."""
    env = Aim(observation="dict")
    model = build(algorithm, make_vec_env(lambda: Aim(observation="dict"), n_envs=4, seed=0), "FlowMultiInputPolicy")
    model.learn(STEPS)
    model.save(tmp_path / "model")
    assert_same_policy(model, type(model).load(tmp_path / "model", env=env), env)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learns_on_two_normalised_environments(algorithm, tmp_path):
    env = VecNormalize(make_vec_env(Aim, n_envs=2, seed=0))
    model = build(algorithm, env)
    model.learn(STEPS)
    model.save(tmp_path / "model")
    env.save(tmp_path / "statistics.pkl")

    restored = VecNormalize.load(tmp_path / "statistics.pkl", make_vec_env(Aim, n_envs=2, seed=1))
    restored.training = restored.norm_reward = False
    loaded = type(model).load(tmp_path / "model", env=restored)
    assert_same_policy(model, loaded, Aim())
    returns, _ = evaluate_policy(loaded, restored, n_eval_episodes=2, warn=False)
    assert np.isfinite(returns)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "TQC"])
def test_steps_on_images(algorithm, tmp_path):
    env = Aim(observation="image")
    small = dict(features_extractor_kwargs=dict(features_dim=8))
    schedule = dict(learning_starts=8, train_freq=8) if algorithm in OFF_POLICY else dict(n_steps=32, batch_size=32)
    model = build(algorithm, env, "FlowCnnPolicy", small, **schedule)
    model.learn(32)
    model.save(tmp_path / "model")
    assert_same_policy(model, type(model).load(tmp_path / "model", env=env), env)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "TRPO"])
def test_every_flow_trains_saves_and_loads(algorithm, flow, tmp_path):
    env = Aim()
    schedule = dict(learning_starts=16, train_freq=8) if algorithm in OFF_POLICY else dict(n_steps=32, batch_size=32)
    model = build(algorithm, env, policy_kwargs=dict(flow=flow), **schedule)
    model.learn(32)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    model.save(tmp_path / "model")
    assert_same_policy(model, type(model).load(tmp_path / "model", env=env), env)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", [*OFF_POLICY, "PPO"])
def test_policy_saves_and_loads_without_its_algorithm(algorithm, flow, tmp_path):
    policy = build_policy(algorithm, flow=flow)
    perturb(policy)
    policy.save(tmp_path / "policy.pt")
    assert_same_policy(policy, type(policy).load(tmp_path / "policy.pt"), Aim())


@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "A2C"])
def test_actor_and_critic_may_have_extractors_of_their_own(algorithm, tmp_path):
    env = Aim(observation="dict")
    model = build(algorithm, env, "FlowMultiInputPolicy", dict(share_features_extractor=False))
    model.learn(128)
    model.save(tmp_path / "model")
    assert_same_policy(model, type(model).load(tmp_path / "model", env=env), env)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_action_shapes(algorithm, shape):
    env = Aim(low=np.full(shape, -0.5), high=np.full(shape, 2.0), reward=lambda action, state: 0.0)
    model = build(algorithm, env).learn(128)
    actions, _ = model.predict(states(env), deterministic=True)
    assert actions.shape == (8, *shape)
    obs, _ = model.policy.obs_to_tensor(states(env))
    assert model.policy.log_prob(obs, torch.as_tensor(actions)).shape == (8,)
    assert model.policy.entropy(obs).shape == (8,)
