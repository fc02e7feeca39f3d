"""Several environments, in one process or in many, and the wrappers of vectorised environments."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from tests.conformance.learners import STEPS
from tests.environments import Aim, Spaces


def aims(n=2, **kwargs):
    return DummyVecEnv([lambda: Aim(**kwargs)] * n)


def forked(n):
    """Processes that need not import anything."""
    return SubprocVecEnv([Aim] * n, start_method="fork")


@pytest.mark.parametrize("together", [aims, forked], ids=["one process", "a process each"])
def test_environments_side_by_side(learner, together):
    env = together(2)
    model = learner.make(env).learn(2 * STEPS)
    assert model.n_envs == 2 and model.num_timesteps >= 2 * STEPS and model._n_updates > 0
    assert model.predict(env.reset())[0].shape == (2, 2)
    env.close()


def test_a_killed_worker_ends_training_and_costs_nothing_that_was_learned(learner, tmp_path):
    """It must not wait for ever for an environment that is gone."""
    env = forked(2)
    model = learner.make(env)

    def kill(local_variables, _):
        if local_variables["self"].num_timesteps >= STEPS:
            env.processes[0].kill()
        return True

    with pytest.raises((EOFError, ConnectionError)):
        model.learn(100 * STEPS, callback=kill)
    for process in env.processes:
        process.kill()
    assert STEPS <= model.num_timesteps < 2 * STEPS
    model.save(tmp_path / "model")
    loaded = learner.algorithm.load(tmp_path / "model", env=aims(), device="cpu")
    loaded.learn(STEPS, reset_num_timesteps=False)
    assert loaded.num_timesteps > model.num_timesteps


def test_wrappers_of_single_environments(learner):
    """make_vec_env's: a Monitor, and a wrapper and arguments of the user's."""
    env = make_vec_env(
        Aim,
        2,
        seed=0,
        env_kwargs=dict(horizon=5),
        wrapper_class=gym.wrappers.ClipReward,
        wrapper_kwargs=dict(max_reward=0),
    )
    model = learner.make(env).learn(2 * STEPS)
    assert {info["l"] for info in model.ep_info_buffer} == {5}
    assert model.get_env().env_is_wrapped(gym.wrappers.ClipReward) == [True, True]


def test_observations_and_rewards_are_normalised(learner, tmp_path):
    env = VecNormalize(aims())
    model = learner.make(env).learn(2 * STEPS)
    assert model.get_vec_normalize_env() is env and env.obs_rms.count > STEPS
    model.save(tmp_path / "model")
    env.save(tmp_path / "statistics.pkl")
    again = VecNormalize.load(tmp_path / "statistics.pkl", aims())
    loaded = learner.algorithm.load(tmp_path / "model", env=again, device="cpu")
    assert loaded.get_vec_normalize_env() is again
    np.testing.assert_array_equal(again.obs_rms.mean, env.obs_rms.mean)
    loaded.learn(2 * STEPS)


def test_what_is_stored_is_not_normalised(off_policy):
    """It is normalised when it is drawn, by the statistics of that moment."""
    env = VecNormalize(aims(1, horizon=5))
    model = off_policy.make(env).learn(STEPS)
    stored = model.replay_buffer.observations[:STEPS, 0]
    drawn = model.replay_buffer.sample(64, env=env).observations.numpy()
    assert np.abs(stored).max() <= 1.0 < np.abs(drawn).max()


def test_vectors_are_stacked(learner):
    env = VecFrameStack(aims(), n_stack=3)
    model = learner.make(env).learn(2 * STEPS)
    assert model.observation_space.shape == (9,)
    assert model.predict(env.reset())[0].shape == (2, 2)


def test_images_are_stacked(learner, supports):
    env = VecFrameStack(aims(observation="image"), n_stack=2)
    with supports("images"):
        small = dict(features_extractor_kwargs=dict(features_dim=4))
        model = learner.make(env, "FlowCnnPolicy", small).learn(2 * STEPS)
        assert isinstance(model.get_env(), VecTransposeImage) and model.observation_space.shape == (2, 36, 36)
        assert model.predict(env.reset())[0].shape == (2, 2)


def test_dictionaries_are_stacked_and_normalised(learner, supports):
    env = VecNormalize(VecFrameStack(aims(observation="dict"), n_stack=2), norm_obs_keys=["state"])
    with supports("dictionaries"):
        learner.make(env, "FlowMultiInputPolicy").learn(2 * STEPS)
        assert env.obs_rms["state"].count > STEPS


def test_one_part_of_a_dictionary(learner):
    learner.make(VecExtractDictObs(aims(observation="dict"), key="state")).learn(2 * STEPS)


def test_episodes_are_monitored(learner, tmp_path):
    env = VecMonitor(aims(horizon=4), str(tmp_path / "log"))
    model = learner.make(env).learn(2 * STEPS)
    assert len(model.ep_info_buffer) >= 4 and (tmp_path / "log.monitor.csv").read_text().count("\n") > 4
    env.close()


class Broken(Aim):
    """Its rewards become NaN."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, np.nan if self.time == 3 else 0.0, terminated, truncated, info


def test_nan_is_found_by_the_wrapper_for_it(learner):
    with pytest.raises(ValueError, match=r"found .*nan in rewards"):
        learner.make(VecCheckNan(DummyVecEnv([Broken]), raise_exception=True)).learn(STEPS)


def test_environments_are_exchanged(learner):
    model = learner.make(aims()).learn(2 * STEPS)
    other = aims()
    model.set_env(other)
    assert model.get_env() is other
    model.learn(2 * STEPS)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(DummyVecEnv([lambda: Spaces(spaces.Box(-1.0, 1.0, (4,)), Aim().action_space)] * 2))
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(aims(3))
