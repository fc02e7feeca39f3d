"""Replay buffers survive a checkpoint: dictionaries of observations too, and an episode that had ended stays ended.

And a model that has diverged replaces none that has not.
"""

import numpy as np
import pytest
from stable_baselines3 import SAC

from experiments.training.checkpoints import (
    NonFiniteWeights,
    has_finite_weights,
    load_checkpoint,
    save_checkpoint,
    save_model,
)
from experiments.training.clock import TrainingClock
from tests.environments import Aim


@pytest.mark.parametrize("observation, policy", [("vector", "MlpPolicy"), ("dict", "MultiInputPolicy")])
@pytest.mark.parametrize("horizon", [1, 1000], ids=["terminated", "running"])
def test_replay_buffer_comes_back(tmp_path, observation, policy, horizon):
    settings = dict(buffer_size=100, learning_starts=10, batch_size=8, policy_kwargs=dict(net_arch=[8]), device="cpu")
    model = SAC(policy, Aim(observation=observation, horizon=horizon), seed=0, **settings).learn(20)
    save_checkpoint(model, tmp_path / "step_20", TrainingClock())
    loaded = load_checkpoint(SAC, tmp_path / "step_20", model.get_env, "cpu")
    before, after = model.replay_buffer, loaded.replay_buffer
    assert after.pos == before.pos == 20
    np.testing.assert_array_equal(after.actions[:20], before.actions[:20])
    np.testing.assert_array_equal(after.rewards[:20], before.rewards[:20])
    effective = after.dones[19] * (1 - after.timeouts[19])
    assert effective == (before.dones[19] * (1 - before.timeouts[19])), "a termination is no truncation"
    if not before.dones[19]:
        assert after.timeouts[19] == 1, "n-step returns stop at the seam"
    loaded.learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize("part", ["actor", "critic", "temperature"])
def test_a_diverged_model_replaces_no_sound_one(tmp_path, part):
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), device="cpu", buffer_size=10)
    save_checkpoint(model, tmp_path / "step_0", TrainingClock())
    save_model(model, tmp_path, "best_")
    weights = model.log_ent_coef if part == "temperature" else next(getattr(model, part).parameters())
    weights.data.view(-1)[0] = float("nan")
    for save in (
        lambda: save_checkpoint(model, tmp_path / "step_0", TrainingClock()),
        lambda: save_model(model, tmp_path, "best_"),
    ):
        with pytest.raises(NonFiniteWeights):
            save()
    for path in (tmp_path / "step_0" / "model.zip", tmp_path / "best_model.zip"):
        assert has_finite_weights(SAC.load(path))
