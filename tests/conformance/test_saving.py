"""Models, parameters, replay buffers and policies are saved and loaded as Stable-Baselines3's are."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.conformance.learners import STEPS
from tests.environments import Aim
from tests.models import states


def acts_the_same(first, second) -> bool:
    """The same deterministic actions, to the bit."""
    obs = states(Aim())
    return np.array_equal(first.predict(obs, deterministic=True)[0], second.predict(obs, deterministic=True)[0])


def optimizers(model):
    """The states of a model's optimisers, by name."""
    return {name: state for name, state in model.get_parameters().items() if "optimizer" in name}


@pytest.mark.parametrize("kind", ["path", "string", "file"])
def test_a_model_goes_to_a_file_and_back(learner, kind, tmp_path):
    model = learner.make().learn(STEPS)
    where = {"path": tmp_path / "model.zip", "string": str(tmp_path / "model"), "file": io.BytesIO()}[kind]
    model.save(where)
    if kind == "file":
        where.seek(0)
    loaded = learner.algorithm.load(where, device="cpu")
    assert acts_the_same(model, loaded)
    assert loaded.num_timesteps == model.num_timesteps and loaded._n_updates == model._n_updates


def test_a_loaded_model_trains_on_with_its_optimisers_where_they_were(learner, tmp_path):
    model = learner.make().learn(STEPS)
    model.save(tmp_path / "model")
    loaded = learner.algorithm.load(tmp_path / "model", env=Aim(), device="cpu")
    for name, state in optimizers(model).items():
        theirs = optimizers(loaded)[name]
        assert state["param_groups"] == theirs["param_groups"]
        for key in state["state"]:
            torch.testing.assert_close(state["state"][key], theirs["state"][key], rtol=0, atol=0)
    loaded.learn(STEPS, reset_num_timesteps=False)
    assert loaded.num_timesteps >= model.num_timesteps + STEPS
    assert not acts_the_same(model, loaded), "it has learned something new"


def test_a_model_without_environment_predicts_and_trains_once_it_has_one(learner, tmp_path):
    learner.make().save(tmp_path / "model")
    loaded = learner.algorithm.load(tmp_path / "model", device="cpu")
    assert loaded.get_env() is None
    loaded.predict(states(Aim()))
    with pytest.raises(AssertionError):
        loaded.learn(STEPS)
    loaded.set_env(Aim())
    loaded.learn(STEPS)


def test_a_model_is_loaded_for_more_environments_than_it_was_trained_in(learner, tmp_path):
    learner.make().learn(STEPS).save(tmp_path / "model")
    loaded = learner.algorithm.load(tmp_path / "model", env=DummyVecEnv([Aim, Aim, Aim]), device="cpu")
    assert loaded.n_envs == 3
    loaded.learn(3 * STEPS)


def test_an_environment_of_other_spaces_is_refused(learner, tmp_path):
    model = learner.make()
    model.save(tmp_path / "model")
    other = Aim(low=(-1.0,), high=(1.0,))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        learner.algorithm.load(tmp_path / "model", env=other, device="cpu")
    with pytest.raises(ValueError, match="Action spaces do not match"):
        model.set_env(other)
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(DummyVecEnv([Aim, Aim]))


def test_a_missing_file_is_an_error(learner, tmp_path):
    with pytest.raises(FileNotFoundError):
        learner.algorithm.load(tmp_path / "nothing", device="cpu")


def test_parameters_go_from_model_to_model_and_to_and_from_files(learner, tmp_path):
    model, other, third = learner.make().learn(STEPS), learner.make(seed=1), learner.make(seed=2)
    assert not acts_the_same(model, other)
    other.set_parameters(model.get_parameters())
    assert acts_the_same(model, other)
    model.save(tmp_path / "model")
    third.set_parameters(tmp_path / "model.zip")
    assert acts_the_same(model, third)


def test_parameters_of_the_policy_alone_and_of_what_there_is_not(learner):
    model, other = learner.make().learn(STEPS), learner.make(seed=1)
    policy = dict(policy=model.get_parameters()["policy"])
    with pytest.raises(ValueError, match="do not match|not match"):
        other.set_parameters(policy)
    other.set_parameters(policy, exact_match=False)
    assert acts_the_same(model, other)
    with pytest.raises(ValueError, match="nonsense"):
        other.set_parameters(dict(nonsense={}), exact_match=False)


def test_what_is_left_out_and_what_is_put_in(learner, tmp_path):
    model = learner.make()
    model.save(tmp_path / "without", exclude=["learning_starts", "n_steps"])
    model.save(tmp_path / "with", exclude=["gamma"], include=["gamma", "_last_obs"])
    data, _, _ = load_from_zip_file(tmp_path / "without")
    assert {"learning_starts", "n_steps", "env"}.isdisjoint(data)
    data, _, _ = load_from_zip_file(tmp_path / "with")
    assert data["gamma"] == model.gamma and "_last_obs" in data
    assert {"replay_buffer", "rollout_buffer", "logger", "_logger"}.isdisjoint(data), "what is large is left out"


def test_objects_and_arguments_take_the_place_of_saved_ones(learner, tmp_path):
    learner.make(learning_rate=1e-3).save(tmp_path / "model")
    custom = dict(learning_rate=1e-5, lr_schedule=lambda _: 1e-5)
    loaded = learner.algorithm.load(tmp_path / "model", custom_objects=custom, device="cpu")
    assert loaded.learning_rate == loaded.lr_schedule(1.0) == 1e-5
    assert learner.algorithm.load(tmp_path / "model", gamma=0.5, device="cpu").gamma == 0.5
    with pytest.raises(ValueError, match="policy kwargs"):
        learner.algorithm.load(tmp_path / "model", policy_kwargs=dict(net_arch=[4]), device="cpu")


def test_the_system_is_printed_on_demand(learner, tmp_path, capsys):
    learner.make().save(tmp_path / "model")
    learner.algorithm.load(tmp_path / "model", print_system_info=True, device="cpu")
    said = capsys.readouterr().out
    assert "CURRENT SYSTEM INFO" in said and "SAVED MODEL SYSTEM INFO" in said and "PyTorch" in said


def test_a_policy_is_saved_and_loaded_by_itself(learner, tmp_path):
    model = learner.make().learn(STEPS)
    model.policy.save(tmp_path / "policy.pt")
    loaded = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    assert acts_the_same(model, loaded)


def test_schedules_are_saved(learner, tmp_path):
    learner.make(learning_rate=lambda remaining: 1e-3 * remaining).learn(STEPS).save(tmp_path / "model")
    loaded = learner.algorithm.load(tmp_path / "model", env=Aim(), device="cpu")
    assert loaded.lr_schedule(0.5) == pytest.approx(5e-4)
    loaded.learn(STEPS)


def test_a_network_of_the_default_size_is_saved(learner, tmp_path):
    model = learner.make(policy_kwargs=dict(net_arch=None))
    model.save(tmp_path / "model")
    assert acts_the_same(model, learner.algorithm.load(tmp_path / "model", device="cpu"))


@pytest.mark.parametrize("in_memory", [False, True], ids=["path", "memory"])
def test_a_replay_buffer_is_saved_apart_and_goes_on(off_policy, in_memory, tmp_path):
    model = off_policy.make().learn(STEPS)
    where = io.BytesIO() if in_memory else Path(tmp_path / "buffer.pkl")
    model.save_replay_buffer(where)
    model.save(tmp_path / "model")
    loaded = off_policy.algorithm.load(tmp_path / "model", env=Aim(), device="cpu")
    assert loaded.replay_buffer.size() == 0
    if in_memory:
        where.seek(0)
    loaded.load_replay_buffer(where)
    assert loaded.replay_buffer.size() == model.replay_buffer.size() == STEPS
    for part in ("observations", "actions", "rewards", "dones", "next_observations"):
        np.testing.assert_array_equal(getattr(loaded.replay_buffer, part), getattr(model.replay_buffer, part))
    loaded.learn(STEPS, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 2 * STEPS


def test_a_file_without_a_replay_buffer_is_refused(off_policy, tmp_path):
    model = off_policy.make()
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps("no buffer"))
    with pytest.raises(AssertionError, match="must inherit from ReplayBuffer"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
