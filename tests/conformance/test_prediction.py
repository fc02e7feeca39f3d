"""`predict`, evaluation and what else is asked of a trained policy."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from tests.conformance.learners import STEPS
from tests.environments import Aim, Spaces
from tests.models import states


@pytest.mark.parametrize("deterministic", [True, False], ids=["deterministic", "sampled"])
def test_one_observation_or_a_batch(learner, deterministic):
    env = Aim()
    model = learner.make(env)
    batch = states(env)
    actions, state = model.predict(batch, deterministic=deterministic)
    assert actions.shape == (len(batch), 2) and state is None
    one, state = model.predict(batch[0], deterministic=deterministic)
    assert one.shape == (2,) and state is None and env.action_space.contains(one)
    assert all(env.action_space.contains(action) for action in actions)
    if deterministic:
        np.testing.assert_allclose(one, actions[0], atol=1e-5)


def test_deterministic_actions_repeat_and_sampled_ones_do_not(learner):
    model, obs = learner.make(), states(Aim())
    for deterministic in (True, False):
        first, second = (model.predict(obs, deterministic=deterministic)[0] for _ in range(2))
        assert np.array_equal(first, second) == deterministic


def test_states_of_recurrent_policies_are_passed_through(learner):
    model, obs = learner.make(), states(Aim())
    actions, state = model.predict(obs, state=None, episode_start=np.ones(len(obs), bool), deterministic=True)
    assert state is None
    _, state = model.predict(obs, state=(hidden := (np.zeros(3),)), episode_start=None)
    assert state is hidden
    np.testing.assert_array_equal(actions, model.policy.predict(obs, deterministic=True)[0])


def test_observations_of_a_dictionary(learner, supports):
    env = Aim(observation="dict")
    with supports("dictionaries"):
        model = learner.make(env, "FlowMultiInputPolicy")
        batch = states(env)
        actions, _ = model.predict(batch, deterministic=True)
        one, _ = model.predict({key: part[0] for key, part in batch.items()}, deterministic=True)
        assert actions.shape == (8, 2) and one.shape == (2,)
        np.testing.assert_allclose(one, actions[0], atol=1e-5)


@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_images_of_either_form(learner, supports, first):
    """SB3 turns images round where an environment has their channels last, in `predict` too."""
    env = Spaces(spaces.Box(0, 255, (1, 36, 36) if first else (36, 36, 1), np.uint8))
    with supports("images"):
        model = learner.make(env, "FlowCnnPolicy", dict(features_extractor_kwargs=dict(features_dim=4)))
        batch = np.stack([env.observation_space.sample() for _ in range(3)])
        turned = np.moveaxis(batch, 1, -1) if first else np.moveaxis(batch, -1, 1)
        actions, _ = model.predict(batch, deterministic=True)
        np.testing.assert_array_equal(actions, model.predict(turned, deterministic=True)[0])
        assert model.predict(batch[0])[0].shape == (2,)


def test_observations_that_do_not_fit_are_refused(learner):
    model = learner.make()
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="mixing Gym API with SB3 VecEnv API"):
        model.predict(Aim().reset(seed=0))


def test_observations_of_other_types_are_cast(learner):
    model = learner.make()
    zeros = np.zeros((2, 3))
    expected, _ = model.predict(zeros.astype(np.float32), deterministic=True)
    for dtype in (np.float64, np.int64):
        np.testing.assert_array_equal(model.predict(zeros.astype(dtype), deterministic=True)[0], expected)


def test_it_is_evaluated(learner):
    model = learner.make()
    calls = []
    returns, lengths = evaluate_policy(
        model,
        Monitor(Aim()),
        n_eval_episodes=2,
        return_episode_rewards=True,
        callback=lambda local, _: calls.append(local),
    )
    assert lengths == [20, 20] and len(calls) == 40 and np.isfinite(returns).all()
    mean, deviation = evaluate_policy(model.policy, DummyVecEnv([lambda: Monitor(Aim())] * 2), n_eval_episodes=2)
    assert np.isfinite([mean, deviation]).all()
    with pytest.raises(AssertionError, match="below threshold"):
        evaluate_policy(model, Monitor(Aim()), n_eval_episodes=1, reward_threshold=1.0)


def test_an_environment_plays_with_it_by_hand(learner):
    env = Monitor(Aim())
    model = learner.make(env)
    obs, _ = env.reset(seed=0)
    done = False
    while not done:
        obs, _, terminated, truncated, info = env.step(model.predict(obs)[0])
        done = terminated or truncated
    assert info["episode"]["l"] == 20


def test_a_subclass_of_a_space_is_that_space(learner):
    class MyBox(spaces.Box):
        """A user's own."""

    env = Spaces(MyBox(-1.0, 1.0, (3,)), MyBox(-1.0, 1.0, (2,)))
    assert learner.make(env).predict(env.observation_space.sample())[0].shape == (2,)


def test_values_log_probs_and_distributions_of_actor_critics(on_policy):
    model = on_policy.make()
    obs, vectorized = model.policy.obs_to_tensor(states(Aim()))
    assert vectorized
    with torch.no_grad():
        actions, values, log_probs = model.policy(obs)
        again, scores, entropy = model.policy.evaluate_actions(obs, actions)
        torch.testing.assert_close(again, values)
        torch.testing.assert_close(scores, log_probs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.policy.predict_values(obs), values)
        distribution = model.policy.get_distribution(obs)
        torch.testing.assert_close(distribution.log_prob(actions), log_probs, atol=1e-4, rtol=1e-4)
    assert values.shape == (8, 1) and log_probs.shape == entropy.shape == (8,)


def test_values_of_actions(off_policy):
    model = off_policy.make()
    obs, _ = model.policy.obs_to_tensor(states(Aim()))
    with torch.no_grad():
        actions = model.actor(obs)
        sampled, log_probs = model.actor.action_log_prob(obs)
    assert actions.shape == sampled.shape == (8, 2) and log_probs.shape == (8,)
    assert model.policy.squash_output and model.predict(states(Aim()))[0].dtype == np.float32


class Dropping(nn.Module):
    """An activation function that differs between training and evaluation."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(torch.tanh(x))


def test_prediction_is_in_evaluation_mode_and_training_is_not(learner):
    model = learner.make(policy_kwargs=dict(activation_fn=Dropping))
    obs = states(Aim())
    for _ in range(2):
        first, second = (model.predict(obs, deterministic=True)[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        model.learn(STEPS)
    modes = []

    def watch(local, _):
        modes.append(model.policy.training)
        return True

    model.learn(STEPS, callback=watch)
    assert not any(modes), "it acts in evaluation mode"
    model.policy.set_training_mode(True)
    acting = model.actor if learner.off_policy else model.policy.mlp_extractor
    assert all(module.training for module in acting.modules())


def test_an_environment_by_its_name(learner):
    model = learner.make("Pendulum-v1")
    assert isinstance(model.get_env().envs[0].unwrapped, type(gym.make("Pendulum-v1").unwrapped))
    assert model.get_env().env_is_wrapped(Monitor) == [True]
    assert model.predict(np.zeros(3, np.float32))[0].shape == (1,)
