"""Environments of other packages: found by their names, with a cure where they are missing; and EnvPool's."""

import importlib.util
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer

from agents import find_agent, hyperparameters
from experiments.run import main
from experiments.training import environments, worlds
from experiments.training.environments import find_environment, make_environment, make_vector_environment
from experiments.training.errors import UsageError
from experiments.training.overrides import apply_overrides
from experiments.training.pool import Pool
from experiments.training.run_directory import RunDirectory
from experiments.training.training import wait_for_episodes
from tests.environments import ReachGoal


def needs(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@pytest.mark.parametrize(
    ("name", "extra"),
    [("FetchReach", "robotics"), ("pointmaze_umaze-v3", "robotics"), ("dm_control/cheetah-run", "dm-control")],
)
def test_a_missing_world_names_its_extra(monkeypatch, name, extra):
    monkeypatch.setattr(worlds.World, "installed", False)
    with pytest.raises(UsageError, match=rf"^--env {name} needs the '{extra}' extra: pip install -e '\.\[{extra}\]'$"):
        find_environment(name)


@pytest.mark.parametrize("name", ["HalfCheetah", "flowrl/HiddenGoal-v0", "Reacher", "phys2d/Pendulum"])
def test_other_names_belong_to_no_world(name):
    assert worlds.world_of(name) is None


@needs("gymnasium_robotics")
def test_a_world_that_needs_another_mujoco_says_which(monkeypatch):
    def make(*args, **kwargs):
        raise AssertionError  # as Gymnasium-Robotics does, without a word

    monkeypatch.setattr(environments.gym, "make", make)
    monkeypatch.setattr(worlds.metadata, "version", lambda name: "3.12.0")
    with pytest.raises(
        UsageError, match=r"it needs mujoco below 3\.12, and .* is installed; pip install .*\[robotics\]"
    ):
        make_environment(find_environment("FetchReach"))
    with pytest.raises(AssertionError):  # whatever is wrong here, it is not MuJoCo's version
        make_environment(find_environment("PointMaze_UMaze"))
    monkeypatch.setattr(worlds.metadata, "version", lambda name: "3.9.1")
    with pytest.raises(AssertionError):
        make_environment(find_environment("FetchReach"))


@needs("gymnasium_robotics")
def test_a_maze_is_found_and_learnt_with_hindsight_and_in_processes(tmp_path):
    found = find_environment("PointMaze_UMaze")
    assert (found.id, found.name) == ("gymnasium_robotics:PointMaze_UMaze-v3", "PointMaze_UMaze")
    options = ["--num-envs", "2", "--vec-env", "subproc", "--env-set", "max_episode_steps=50", "--eval-every", "0"]
    settings = ["--set", "learning_starts=100", "--set", "buffer_size=1000"]
    train = ["--env", "PointMaze_UMaze", "--steps", "120", *options, *settings, "--logdir", str(tmp_path)]
    assert main(train) == 0
    (run,) = (tmp_path / "PointMaze_UMaze-v3" / "flow-sac").iterdir()
    assert "HerReplayBuffer" in str(RunDirectory.open(run).config["hyperparameters"]["replay_buffer_class"])


@needs("gymnasium_robotics")
def test_versions_that_are_gone_stay_so_where_robotics_has_been_imported():
    find_environment("PointMaze_UMaze")
    with pytest.raises(UsageError, match=r"HalfCheetah-v3 is no longer part of Gymnasium: use HalfCheetah-v5"):
        make_environment(find_environment("HalfCheetah-v3"))


def test_hindsight_waits_for_an_episode_of_each_environment():
    env, row = gym.make("Height-v0"), dict(replay_buffer_class=HerReplayBuffer, learning_starts=30)
    assert [wait_for_episodes(row, n, env)["learning_starts"] for n in (1, 2)] == [30, 40]
    assert wait_for_episodes(row | dict(replay_buffer_class=None), 2, env)["learning_starts"] == 30


def test_hindsight_can_be_left():
    agent, env = find_agent("flow-sac"), ReachGoal()
    settings = apply_overrides(
        hyperparameters("sac", "FetchReach"), ["replay_buffer_class=None"], agent, env.observation_space
    )
    assert settings["replay_buffer_class"] is None
    assert hyperparameters("nfq", "FetchReach", offline=True)["replay_buffer_class"] is None


class Height(gym.Env):
    """As some of dm_control's."""

    observation_space = spaces.Dict(height=spaces.Box(-1.0, 1.0, ()), speed=spaces.Box(-1.0, 1.0, (2,)))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"height": np.float32(0.5), "speed": np.zeros(2, np.float32)}, {}

    def step(self, action):
        return *self.reset()[:1], 0.0, False, False, {}


gym.register("Height-v0", entry_point=Height, max_episode_steps=20)


@pytest.mark.parametrize("agent", ["flow-sac", "nfq", "flow-ppo"])
def test_a_dictionary_with_a_number_is_learnt_from(tmp_path, agent):
    few = ["--set", "n_steps=32"] if agent == "flow-ppo" else ["--set", "learning_starts=10"]
    train = ["--env", "Height", "--agent", agent, "--steps", "40", "--eval-every", "0", "--set", "batch_size=8", *few]
    assert main([*train, "--logdir", str(tmp_path)]) == 0


def test_rows_for_goals_have_hindsight():
    from agents.hyperparameters import SAC

    arms_and_mazes = [name for name in SAC if worlds.world_of(name)]
    assert arms_and_mazes and all(SAC[name]["replay_buffer_class"] is HerReplayBuffer for name in arms_and_mazes)


def test_without_envpool_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the 'envpool' extra: pip install -e '\.\[envpool\]'"):
        Pool("HalfCheetah-v5", 2, {})


@pytest.fixture
def pool():
    made = []

    def make(**kwargs):
        made.append(make_vector_environment(find_environment("Hopper"), 3, False, 0.99, vec_env="envpool", **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


@needs("envpool")
def test_a_pool_steps_as_gymnasium_does(pool):
    env, theirs = pool(), gym.make("Hopper-v5").unwrapped
    env.seed(3)
    observations = env.reset()
    theirs.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 3)).astype(np.float32)
    after, rewards, dones, _ = env.step(actions)
    assert env.action_space == theirs.action_space and not dones.any()
    for row in range(3):  # x, which nothing depends on, is left out of observations
        theirs.set_state(np.concatenate([[0.0], observations[row, :5]]), observations[row, 5:])
        observation, reward, *_ = theirs.step(actions[row])
        np.testing.assert_allclose(after[row], observation, rtol=0, atol=1e-9)
        assert rewards[row] == pytest.approx(reward, abs=1e-6)


@needs("envpool")
def test_a_pools_episodes_end_as_in_stable_baselines3(pool):
    env = pool(max_episode_steps=40)
    env.seed(0)
    env.reset()
    rng, returns, lengths, ends = np.random.default_rng(1), np.zeros(3), np.zeros(3, int), set()
    for _ in range(120):
        observations, rewards, dones, infos = env.step(rng.uniform(-1, 1, (3, 3)).astype(np.float32))
        returns, lengths = returns + rewards, lengths + 1
        for row in np.flatnonzero(dones):
            info = infos[row]
            assert info["episode"]["l"] == lengths[row]
            assert info["episode"]["r"] == pytest.approx(returns[row], abs=1e-4)
            fallen = info["terminal_observation"][0] < 0.7 or abs(info["terminal_observation"][1]) > 0.2
            assert info["TimeLimit.truncated"] == (lengths[row] == 40) and (fallen or lengths[row] == 40)
            assert observations[row, 0] > 1.2 and abs(observations[row, 5:]).max() < 0.01  # the next one's first
            returns[row], lengths[row] = 0, 0
            ends.add(info["TimeLimit.truncated"])
        assert all(info == {} for info, done in zip(infos, dones) if not done)
    assert ends == {True, False}


@needs("envpool")
def test_a_seed_gives_the_same_pool(pool):
    def play(seed):
        env = pool()
        env.seed(seed)
        return [env.reset(), *(env.step(np.full((3, 3), 0.3, np.float32))[0] for _ in range(60))]

    first, same, other = play(0), play(0), play(2**31 + 7)
    play(None)  # a seed that SB3 draws
    np.testing.assert_array_equal(first, same)
    assert (first[0] != other[0]).any() and (first[0][0] != first[0][1]).any()


@needs("envpool")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "flowrl/HiddenGoal"], "EnvPool has no flowrl/HiddenGoal-v0; without it, --vec-env subproc"),
        (["--env", "Hopper", "--env-set", "width=64"], "--env-set: EnvPool's Hopper-v5: .*width"),
    ],
)
def test_what_a_pool_does_not_have_is_refused(tmp_path, capsys, options, message):
    assert main([*options, "--vec-env", "envpool", "--steps", "100", "--logdir", str(tmp_path)]) != 0
    assert re.search(message, capsys.readouterr().err)


@needs("envpool")
def test_a_run_in_a_pool_trains_and_goes_on(tmp_path):
    train = ["--env", "Hopper", "--agent", "flow-ppo", "--num-envs", "4", "--set", "n_steps=64", "--eval-every", "500"]
    train += ["--checkpoint-every", "250", "--no-progress"]
    assert main([*train, "--steps", "512", "--vec-env", "envpool", "--logdir", str(tmp_path)]) == 0
    (run,) = (tmp_path / "Hopper-v5" / "flow-ppo").iterdir()
    assert main(["--resume", str(run), "--steps", "1024"]) == 0
