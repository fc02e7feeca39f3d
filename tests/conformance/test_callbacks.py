"""Callbacks are called when Stable-Baselines3's are, with what they find there, and can stop the training."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.conformance.learners import STEPS
from tests.environments import Aim


class Diary(BaseCallback):
    """Notes what it is called for, and the local variables of each step."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.names = set()

    def _on_training_start(self):
        self.calls.append("training start")

    def _on_rollout_start(self):
        self.calls.append("rollout start")

    def _on_step(self):
        self.calls.append("step")
        self.names |= self.locals.keys()
        return True

    def _on_rollout_end(self):
        self.calls.append("rollout end")

    def _on_training_end(self):
        self.calls.append("training end")


def test_a_callback_is_called_in_order_and_sees_the_step(learner):
    diary = Diary()
    model = learner.make().learn(2 * STEPS, callback=diary)
    calls = diary.calls
    assert calls[:3] == ["training start", "rollout start", "step"] and calls[-1] == "training end"
    assert calls.count("step") == model.num_timesteps == diary.n_calls == diary.num_timesteps
    assert calls.count("rollout start") == calls.count("rollout end") > 1
    assert {"self", "new_obs", "rewards", "dones", "infos", "callback"} <= diary.names
    assert diary.model is model and diary.training_env is model.get_env() and diary.logger is model.logger


def test_a_function_is_a_callback_and_stops_the_training(learner):
    model = learner.make().learn(STEPS, callback=lambda local, _: local["self"].num_timesteps < 5)
    assert model.num_timesteps == 5


def test_several_callbacks(learner):
    first, second = Diary(), Diary()
    learner.make().learn(STEPS, callback=[first, CallbackList([second])])
    assert first.calls == second.calls


def test_checkpoints_can_be_loaded(learner, tmp_path):
    env = VecNormalize(DummyVecEnv([Aim]))
    callback = CheckpointCallback(8, tmp_path, "it", save_replay_buffer=learner.off_policy, save_vecnormalize=True)
    model = learner.make(env).learn(2 * STEPS, callback=callback)
    loaded = learner.algorithm.load(tmp_path / "it_16_steps.zip", env=env, device="cpu")
    assert (tmp_path / "it_8_steps.zip").exists() and (tmp_path / "it_vecnormalize_16_steps.pkl").exists()
    assert loaded.num_timesteps == 16 <= model.num_timesteps
    if learner.off_policy:
        loaded.load_replay_buffer(tmp_path / "it_replay_buffer_16_steps.pkl")
        assert loaded.replay_buffer.size() >= 15


def test_it_is_evaluated_and_the_best_is_kept(learner, tmp_path):
    callback = EvalCallback(
        Monitor(Aim(horizon=5)),
        n_eval_episodes=1,
        eval_freq=8,
        log_path=tmp_path,
        best_model_save_path=tmp_path,
        verbose=0,
        callback_after_eval=(after := EveryNTimesteps(1, diary := Diary())),
    )
    model = learner.make(Monitor(Aim(horizon=5))).learn(2 * STEPS, callback=callback)
    assert list(np.load(tmp_path / "evaluations.npz")["timesteps"]) == [8, 16]
    assert after.n_calls == 2 and diary.calls.count("step") == 2
    best = learner.algorithm.load(tmp_path / "best_model", device="cpu")
    assert best.num_timesteps <= model.num_timesteps


@pytest.mark.parametrize("why", ["enough", "no better"])
def test_an_evaluation_stops_the_training(learner, why):
    constant = Monitor(Aim(horizon=5, reward=lambda action, state: 0.0))
    reached = StopTrainingOnRewardThreshold(reward_threshold=-1.0) if why == "enough" else None
    no_better = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=1) if why != "enough" else None
    callback = EvalCallback(
        constant, reached, no_better, n_eval_episodes=1, eval_freq=1, verbose=0, log_path=None, deterministic=True
    )
    model = learner.make(constant).learn(10 * STEPS, callback=callback)
    assert model.num_timesteps == (1 if why == "enough" else 3)


def test_so_many_episodes_are_enough(learner):
    model = learner.make(Aim(horizon=5)).learn(10 * STEPS, callback=StopTrainingOnMaxEpisodes(max_episodes=2))
    assert model.num_timesteps == 10


def test_every_so_many_steps(learner):
    diary = Diary()
    learner.make().learn(STEPS, callback=[EveryNTimesteps(4, diary), LogEveryNTimesteps(8)])
    assert diary.calls.count("step") == STEPS // 4


def test_a_progress_bar(learner, capsys):
    learner.make().learn(STEPS, progress_bar=True)
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().out
