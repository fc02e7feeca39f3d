"""The same seed gives the same run, and training in two parts is training in one."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.conformance.learners import STEPS
from tests.environments import Aim
from tests.models import states


def same(first, second) -> bool:
    """The same weights, to the bit."""
    pairs = zip(first.policy.parameters(), second.policy.parameters(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_seed_says_everything(learner, n_envs):
    first, again, other = (learner.make(DummyVecEnv([Aim] * n_envs), seed=seed) for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)
    for model in (first, again):
        model.set_random_seed(0)
        model.learn(2 * n_envs * STEPS)
    assert same(first, again)
    obs = states(Aim())
    np.testing.assert_array_equal(*(model.predict(obs, deterministic=True)[0] for model in (first, again)))
    drawn = []
    for model in (first, again):
        model.set_random_seed(3)
        drawn.append(model.predict(obs)[0])
    np.testing.assert_array_equal(*drawn)


def test_training_in_two_parts_is_training_in_one(learner):
    parts = learner.make()
    parts.learn(STEPS).learn(STEPS, reset_num_timesteps=False)
    whole = learner.make().learn(2 * STEPS)
    assert parts.num_timesteps == whole.num_timesteps == 2 * STEPS
    assert parts._n_updates == whole._n_updates and same(parts, whole)


def test_steps_are_counted_anew_or_further(learner):
    model = learner.make().learn(STEPS)
    assert model.num_timesteps == STEPS
    assert model.learn(STEPS).num_timesteps == STEPS
    assert model.learn(STEPS, reset_num_timesteps=False).num_timesteps == 2 * STEPS


def test_a_loaded_model_goes_on_as_the_first(on_policy, tmp_path):
    """With the same random numbers and an environment at its start."""
    model = on_policy.make().learn(STEPS)
    model.save(tmp_path / "model")
    loaded = on_policy.algorithm.load(tmp_path / "model", env=Aim(), device="cpu")
    model.set_env(Aim())
    for each in (model, loaded):
        each.set_random_seed(5)
        each.learn(STEPS)
    assert same(model, loaded)
