"""A flow policy as the lower level of another agent: every action is within its reach."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import flowrl
from flowrl import algorithms
from flowrl.algorithms import NFQ
from flowrl.policies.latent import LatentPolicy
from tests.environments import HIGH, LOW, Aim
from tests.models import build, perturb


def lower(algorithm="SAC", **kwargs):
    model = (
        build(algorithm, policy_kwargs=dict(flow="nsf"), **kwargs) if algorithm != "NFQ" else NFQ("FlowPolicy", Aim())
    )
    perturb(model.policy)
    return model


@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "NFQ"])
def test_noise_and_actions_are_one_to_one(algorithm):
    model = lower(algorithm)
    env = LatentPolicy(Aim(), model)
    obs, _ = env.reset(seed=0)
    for share in (0.02, 0.4, 0.97):
        obs, _ = env.reset(seed=1)
        wanted = np.array(LOW) + share * (np.array(HIGH) - LOW)
        *_, info = env.step(env.noise_of(wanted, obs))
        np.testing.assert_allclose(info["lower_action"], wanted, atol=2e-3)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_no_noise_is_the_deterministic_action(algorithm):
    model = lower(algorithm)
    env = LatentPolicy(Aim(), model)
    obs, _ = env.reset(seed=0)
    *_, info = env.step(np.zeros(2, np.float32))
    np.testing.assert_allclose(info["lower_action"], model.predict(obs, deterministic=True)[0], rtol=1e-5)


def test_normal_noise_acts_as_the_policy():
    model, env = lower(), LatentPolicy(Aim(), lower())
    obs, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    ours = np.array([env._noise_becomes_action(random.normal(size=2), obs) for _ in range(1_500)])
    theirs = model.predict(np.tile(obs, (3_000, 1)))[0]
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), rtol=0.15, atol=0.15)


def test_a_higher_level_learns_what_the_lower_one_was_not_taught():
    """The lower level aims at a point; the higher is paid for its mirror image."""
    # flowrl's own SAC, whose updates in C take a tenth of the time
    settings = dict(learning_rate=1e-2, learning_starts=100, seed=0, device="cpu")
    base = algorithms.SAC("FlowPolicy", Aim(), batch_size=32, policy_kwargs=dict(net_arch=[16]), **settings)
    base.learn(600)
    mirrored = Aim(reward=lambda action, state: -float(np.square(action + 0.8 * state[:2]).sum()))
    env = flowrl.latent_policy(mirrored, base)
    check_env(env, skip_render_check=True)
    weights = [p.clone() for p in base.policy.parameters()]
    higher = algorithms.SAC("FlowPolicy", env, policy_kwargs=dict(net_arch=[32]), **settings)
    higher.learn(900)
    assert all(torch.equal(a, b) for a, b in zip(weights, base.policy.parameters()))

    def mean_return(choose):
        rewards = []
        for seed in range(5):
            obs, ended = env.reset(seed=seed)[0], False
            while not ended:
                obs, reward, terminated, truncated, _ = env.step(choose(obs))
                rewards.append(reward)
                ended = terminated or truncated
        return np.mean(rewards)

    taught = mean_return(lambda obs: higher.predict(obs, deterministic=True)[0])
    assert taught > 0.5 * mean_return(lambda obs: np.zeros(2, np.float32)), "rewards are negative"


def test_a_step_needs_a_reset():
    with pytest.raises(ResetNeeded, match="before the first reset"):
        LatentPolicy(Aim(), lower()).step(np.zeros(2, np.float32))


def test_what_has_no_noise_or_other_spaces_is_refused():
    with pytest.raises(ValueError, match="flow policy"):
        flowrl.latent_policy(Aim(), SAC("MlpPolicy", Aim()))
    with pytest.raises(ValueError, match="must be the same"):
        flowrl.latent_policy(gym.make("Pendulum-v1"), lower())


def batch_normalised():
    settings = dict(learning_starts=20, batch_size=16, buffer_size=200, seed=0, device="cpu")
    policy_kwargs = dict(net_arch=[16], architecture=dict(norm="batch"))
    return algorithms.NFAC("FlowPolicy", Aim(), policy_kwargs=policy_kwargs, **settings).learn(60)


def test_statistics_of_batches_are_left_alone():
    """A model that has just learned, or was loaded, is in training mode."""
    model = batch_normalised()
    model.policy.set_training_mode(True)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    env = flowrl.latent_policy(Aim(), model)
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        *_, info = env.step(np.zeros(2, np.float32))
        np.testing.assert_allclose(info["lower_action"], model.predict(obs, deterministic=True)[0], rtol=1e-5)
        model.policy.set_training_mode(True)
        assert np.isfinite(env.noise_of(info["lower_action"], obs)).all()
    assert all(torch.equal(before[name], value) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_observations_are_normalised_as_the_models_environment_does(observation):
    vec = VecNormalize(make_vec_env(lambda: Aim(observation=observation)), norm_obs_keys=None)
    model = PPO("FlowPolicy" if observation == "vector" else "FlowMultiInputPolicy", vec, n_steps=64, device="cpu")
    perturb(model.learn(64).policy)
    env = flowrl.latent_policy(Aim(observation=observation), model)
    obs, _ = env.reset(seed=0)
    *_, info = env.step(np.zeros(2, np.float32))
    expected = model.predict(vec.normalize_obs(obs), deterministic=True)[0]
    np.testing.assert_allclose(info["lower_action"], expected, rtol=1e-5)


def test_statistics_of_other_observations_are_refused():
    vec = VecFrameStack(VecNormalize(make_vec_env(Aim)), 2)
    model = PPO("FlowPolicy", vec, n_steps=64, device="cpu")
    with pytest.raises(ValueError, match="Put VecNormalize outermost"):
        flowrl.latent_policy(gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(Aim(), 2)), model)


def test_images_are_those_of_the_environment():
    model = SAC("FlowCnnPolicy", Aim(observation="image"), buffer_size=10, device="cpu")
    env = flowrl.latent_policy(Aim(observation="image"), model)
    obs, _ = env.reset(seed=0)
    *_, info = env.step(np.zeros(2, np.float32))
    np.testing.assert_allclose(info["lower_action"], model.predict(obs, deterministic=True)[0], rtol=1e-5)
