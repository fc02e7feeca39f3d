"""From names to environments."""

import json
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper

from agents import SAC, hyperparameters
from experiments.training import environments
from experiments.training.environments import (
    Environment,
    NonFiniteAction,
    NonFiniteObservation,
    check_options,
    find_environment,
    make_environment,
    make_vector_environment,
    with_options,
)
from experiments.training.errors import UsageError, did_you_mean
from experiments.training.worlds import world_of


@pytest.mark.parametrize(
    ("name", "full_id", "short"),
    [
        ("HalfCheetah", "HalfCheetah-v5", "HalfCheetah"),
        ("halfcheetah", "HalfCheetah-v5", "HalfCheetah"),
        ("HalfCheetah-v4", "HalfCheetah-v4", "HalfCheetah"),
        ("halfcheetah-V4", "HalfCheetah-v4", "HalfCheetah"),
        ("Pendulum", "Pendulum-v1", "Pendulum"),
        ("phys2d/Pendulum", "phys2d/Pendulum-v0", "Pendulum"),
        (
            "experiments.studies.nan_pendulum:NanPendulum",
            "experiments.studies.nan_pendulum:NanPendulum-v0",
            "NanPendulum",
        ),
    ],
)
def test_names_resolve(name, full_id, short):
    found = find_environment(name)
    assert (found.id, found.name) == (full_id, short)


def test_options_are_after_json_what_they_were_before():
    typed = ["sizes=(3,4)", "table={1:2}"]
    environment = with_options(Environment("x/Y-v0", "x/Y"), typed)
    saved = json.loads(json.dumps(dict(environment=asdict(environment), arguments=dict(env_set=typed))))
    assert Environment.of(saved) == environment and environment.kwargs == dict(sizes=(3, 4), table={1: 2})


def test_somebody_elses_environment_of_a_known_name_has_a_name_of_its_own(monkeypatch):
    monkeypatch.setitem(gym.registry, "mine/Pendulum-v0", EnvSpec("mine/Pendulum-v0", "nowhere:Pendulum"))
    assert find_environment("mine/Pendulum").name == "mine/Pendulum"
    assert hyperparameters("ppo", "mine/Pendulum") == hyperparameters("ppo", "mine/Other")


def test_options_reach_the_environment_as_python_would_read_them():
    options = ("tries=2", "goals=((.5,.5),(-.5,-.5))", "max_episode_steps=7")
    environment = with_options(find_environment("flowrl/HiddenGoal"), options)
    assert environment.kwargs == dict(tries=2, goals=((0.5, 0.5), (-0.5, -0.5)), max_episode_steps=7)
    made = make_environment(environment)
    assert (made.unwrapped.tries, len(made.unwrapped.goals), made.spec.max_episode_steps) == (2, 2, 7)
    vectorised = make_vector_environment(environment, 2, normalize=True, gamma=0.9, training=False)
    assert vectorised.get_attr("tries") == [2, 2]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("tries", "--env-set tries: expected key=value"),
        ("trys=8", "flowrl/HiddenGoal-v0 does not take trys=8: .*unexpected keyword argument 'trys'$"),
        ("tries=eight", "does not take tries='eight': tries must be a whole number of at least 1, got 'eight'$"),
        ("render_mode=rgb_array", "--env-set render_mode: .*--video"),
    ],
)
def test_an_option_that_the_environment_does_not_take_is_refused(option, message):
    with pytest.raises(UsageError, match=message):
        make_environment(with_options(find_environment("flowrl/HiddenGoal"), [option]))


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("HalfCheetah", "xml_file=nofile.xml", "does not take xml_file='nofile.xml': .*nofile.xml"),
        ("Pendulum", "g=abc", "does not take g='abc': "),
    ],
)
def test_an_option_whose_value_shows_late_to_be_wrong_is_refused(name, option, message):
    environment = with_options(find_environment(name), [option])
    with pytest.raises(UsageError, match=message):
        check_options(make_environment(environment), environment)


def test_every_environment_with_hyperparameters_is_registered():
    here = {name for name in SAC if world_of(name) is None or world_of(name).installed}
    assert set(environments.newest_ids(SAC)) == here


def test_continuous_lunar_lander_without_an_id_of_its_own(monkeypatch):
    for name in [name for name in gym.registry if name.startswith("LunarLanderContinuous")]:
        monkeypatch.delitem(gym.registry, name)
    found = find_environment("LunarLanderContinuous")
    assert found.id.startswith("LunarLander-v") and found.kwargs == {"continuous": True}
    assert make_environment(found).action_space.shape == (2,)


@pytest.mark.parametrize(("name", "extra"), [("HalfCheetah", "mujoco"), ("BipedalWalker", "box2d")])
def test_a_missing_package_names_the_extra(monkeypatch, name, extra):
    def make(*args, **kwargs):
        raise gym.error.DependencyNotInstalled("no such package")

    monkeypatch.setattr(environments.gym, "make", make)
    with pytest.raises(UsageError, match=rf"pip install -e '\.\[{extra}\]'"):
        make_environment(find_environment(name))


def test_of_mujocos_warnings_only_that_of_gymnasiums_model_is_kept_from_the_screen(capfd):
    mujoco = pytest.importorskip("mujoco")
    make_environment(find_environment("HalfCheetah"))
    assert capfd.readouterr() == ("", "")
    mujoco.get_mju_user_warning()("Nan, Inf or huge value in QACC at DOF 0")
    assert "WARNING: Nan, Inf" in capfd.readouterr().err


def test_normalisation_leaves_evaluation_rewards_as_they_are():
    environment = find_environment("Pendulum")
    training = make_vector_environment(environment, 2, normalize=True, gamma=0.9)
    evaluation = make_vector_environment(environment, 1, normalize=True, gamma=0.9, training=False)
    assert training.num_envs == 2
    wrapper = unwrap_vec_wrapper(evaluation, VecNormalize)
    assert not wrapper.training and not wrapper.norm_reward and wrapper.norm_obs
    assert unwrap_vec_wrapper(make_vector_environment(environment, 1, False, 0.9), VecNormalize) is None


def test_nan_is_stopped_before_it_reaches_the_running_statistics():
    environment = find_environment("experiments.studies.nan_pendulum:NanPendulum")
    env = make_vector_environment(environment, 1, normalize=True, gamma=0.9)
    env.reset()
    with pytest.raises(NonFiniteObservation, match=r"observation\[0\] = nan"):
        for _ in range(200):
            env.step(np.zeros((1, 1), dtype=np.float32))
    assert np.isfinite(env.obs_rms.mean).all()


def test_an_action_that_is_not_finite_is_refused():
    env = make_vector_environment(find_environment("Pendulum"), 1, normalize=False, gamma=0.9)
    env.reset()
    with pytest.raises(NonFiniteAction):
        env.step(np.full((1, 1), np.inf))


def test_hints():
    assert did_you_mean("hoper", ["Hopper", "Ant"]) == "did you mean Hopper?"
    assert did_you_mean("zzz", ["Hopper", "Ant"]) == "valid names are Ant, Hopper"
