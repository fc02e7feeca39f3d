"""Demonstrations from end to end: `collect.py` records them, `run.py` clones them, and fine-tunes the clone."""

import shutil
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from experiments import collect, evaluate
from experiments.run import main
from experiments.training import demonstrations
from experiments.training.run_directory import RunDirectory
from flowrl.algorithms import NFQ, SAC
from tests.experiments.test_run import HAS_COMPILER, SHORT_EPISODES, train

minari = pytest.importorskip("minari", reason="minari is the 'demos' extra")
pytest.importorskip("h5py", reason="h5py is in the 'demos' extra")

NAME = "pendulum/tests-v0"
PENDULUM = gym.make("Pendulum-v1")


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    """Minari's data sets and the runs of this file are its own."""
    path = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path / "datasets"))
        yield path


@pytest.fixture(scope="module")
def expert(root):
    """A run whose observations are normalised, and its recorded episodes."""
    path = train(root / "runs", "flow-sac", "--set", "normalize=True", "--eval-every", "60", steps=120)
    assert collect.main([str(path), "--name", NAME, "--episodes", "3", "--seed", "5", "--deterministic"]) == 0
    return path


@pytest.fixture(scope="module", params=["flow-bc", "bc"])
def clone(request, expert, root):
    """A finished run of behaviour cloning."""
    more = ("--demos", NAME, "--eval-every", "20", "--checkpoint-every", "20", *SHORT_EPISODES)
    return train(root / "runs", request.param, *more, steps=40)


def load(name=NAME, observation_space=PENDULUM.observation_space, action_space=PENDULUM.action_space):
    return demonstrations.load(name, observation_space, action_space)


# -- recording ------------------------------------------------------------------------------------------------------


def test_the_data_set_holds_raw_observations_and_what_the_policy_did_in_them(expert):
    dataset = minari.load_dataset(NAME)
    assert dataset.total_episodes == 3 and dataset.total_steps == 600
    model, env = evaluate.load(RunDirectory.open(expert), "best", "cpu")
    for i, episode in enumerate(dataset.iterate_episodes()):
        np.testing.assert_allclose(np.hypot(*episode.observations[:, :2].T), 1, atol=1e-5)  # a cosine and a sine
        assert np.array_equal(episode.observations[0], PENDULUM.reset(seed=5 + i)[0])
        expected, _ = model.predict(env.normalize_obs(episode.observations[:-1]), deterministic=True)
        np.testing.assert_allclose(episode.actions, expected, atol=1e-5)


def test_the_data_set_says_where_it_comes_from(expert):
    metadata = minari.load_dataset(NAME).storage.metadata
    assert metadata["agent"] == "flow-sac" and metadata["deterministic"] is True and metadata["seed"] == 5
    assert metadata["run"] == expert.name and "commit" in metadata
    returns = [episode.rewards.sum() for episode in minari.load_dataset(NAME).iterate_episodes()]
    assert metadata["mean_return"] == pytest.approx(np.mean(returns))


@pytest.mark.parametrize(
    ("name", "expected"), [(NAME, "minari delete"), ("pendulum", "halfcheetah/flow-sac-v0"), ("a b-v0", "a b-v0")]
)
def test_a_name_that_is_taken_or_none_is_one_line(expert, capsys, name, expected):
    assert collect.main([str(expert), "--name", name]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and expected in message


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_a_missing_package_names_its_extra(expert, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert collect.main([str(expert), "--name", "pendulum/other-v0"]) == 2
    assert "pip install -e '.[demos]'" in capsys.readouterr().err
    assert main(["--env", "Pendulum", "--agent", "flow-bc", "--demos", NAME]) == 2
    assert "pip install -e '.[demos]'" in capsys.readouterr().err


# -- reading --------------------------------------------------------------------------------------------------------


def test_one_episode_in_ten_and_at_least_one_is_held_out(expert):
    train_steps, held_out = load()
    assert len(train_steps) == 400 and len(held_out) == 200
    assert np.array_equal(load()[1].observations, held_out.observations), "always the same"


def test_actions_beyond_the_box_are_one_line(root, tmp_path, capsys):
    class Clipped(gym.ActionWrapper):
        def action(self, action):
            return np.clip(action, -2.0, 2.0)

    name = "pendulum/beyond-v0"
    collect.record(Clipped(PENDULUM), lambda _: np.array([3.0], np.float32), name, episodes=1, seed=0)
    assert main(["--env", "Pendulum", "--agent", "bc", "--demos", name, "--logdir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: --demos {name}: ") and "clip them" in message and message.count("\n") == 1


def test_demonstrations_of_another_environment_are_refused(expert):
    other = spaces.Box(-1.0, 1.0, (1,))
    with pytest.raises(demonstrations.UsageError, match=r"other actions: Box\(-2.0, 2.0"):
        load(action_space=other)
    with pytest.raises(demonstrations.UsageError, match="other observations"):
        load(observation_space=spaces.Dict(a=other))


def test_a_data_set_that_is_not_there_names_the_nearest(expert):
    with pytest.raises(demonstrations.UsageError, match=f"did you mean {NAME}"):
        load("pendulum/test-v0")


# -- cloning --------------------------------------------------------------------------------------------------------


def test_a_clone_is_a_run_like_any_other(clone, capsys):
    run = RunDirectory.open(clone)
    assert [row["step"] for row in run.evaluations()] == [20, 40]
    assert [checkpoint.name for checkpoint in run.checkpoints()] == ["step_20", "step_40"]
    columns = set(run.progress()[-1])
    assert {"train/log_likelihood", "train/log_likelihood_held_out", "flow/entropy", "eval/mean_reward"} <= columns
    column = [row["train/log_likelihood_held_out"] for row in run.progress()]
    likelihoods = [float(value) for value in column if value]
    assert likelihoods[-1] > likelihoods[0]
    assert evaluate.main([str(clone), "--episodes", "1"]) == 0
    assert "bc on Pendulum-v1, best model" in capsys.readouterr().out
    assert run.config["demonstrations"] == NAME


def test_a_clone_resumes(expert, root):
    path = train(root / "resumed", "flow-bc", "--demos", NAME, "--eval-every", "0", steps=20)
    assert main(["--resume", str(path), "--steps", "30", "--no-progress"]) == 0
    model = SAC.load(path / "last_model.zip")
    assert model.num_timesteps == 30 and model._n_updates == 30


def test_the_clone_is_fine_tuned_with_its_own_actor(clone, root):
    agent = RunDirectory.open(clone).config["agent"].replace("bc", "sac")
    path = train(root / "tuned", agent, "--from", str(clone), "--eval-every", "0", "--checkpoint-every", "30", steps=80)
    run = RunDirectory.open(path)
    config = run.config
    assert config["source"] == str(clone) and config["critic_warmup"] == 50
    assert config["hyperparameters"]["learning_starts"] == 0
    (update,) = config["sessions"][0]["updates"]
    assert update["form"] == ("SB3" if agent == "sac" else "C" if HAS_COMPILER else "torch"), (
        "holding the actor still needs no hook"
    )
    cloned = SAC.load(clone / "best_model.zip").actor.state_dict()
    warm, tuned = (SAC.load(path) for path in (run.checkpoints()[0] / "model.zip", path / "last_model.zip"))
    assert all(torch.equal(cloned[name], value) for name, value in warm.actor.state_dict().items())
    assert warm.log_ent_coef.item() == 0.0 and warm._n_updates == 30, "the critics alone learn at first"
    assert not all(torch.equal(cloned[name], value) for name, value in tuned.actor.state_dict().items())
    moved = [
        (a - b).abs().max()
        for a, b in zip(tuned.actor.parameters(), SAC.load(clone / "best_model.zip").actor.parameters())
    ]
    assert max(moved) < 30 * 1e-3 * 1.5, "and then the actor at its learning rate, not in one leap"


def test_normalised_clones_take_their_statistics_along(expert, root):
    normalize = ("--set", "normalize=True", "--eval-every", "0")
    clone = train(root / "normalised", "flow-bc", "--demos", NAME, *normalize, steps=10)
    _, env = evaluate.load(RunDirectory.open(clone), "last", "cpu")
    np.testing.assert_allclose(env.obs_rms.mean, load()[0].observations.mean(0), rtol=1e-5)
    path = train(root / "normalised", "flow-sac", "--from", str(clone), "--eval-every", "0", steps=20)
    assert RunDirectory.open(path).config["normalize"] is True
    _, tuned = evaluate.load(RunDirectory.open(path), "last", "cpu")
    assert tuned.obs_rms.count > 400 and np.allclose(tuned.obs_rms.mean, env.obs_rms.mean, atol=0.3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--agent", "flow-bc"], "collect.py"),
        (["--agent", "flow-sac", "--demos", NAME], "--agent flow-bc"),
        (["--agent", "sac", "--demos", NAME], "--agent bc"),
        (["--agent", "flow-bc", "--demos", NAME, "--plain"], "--plain"),
        (["--agent", "flow-bc", "--demos", "nothing/here-v0"], "no Minari data set 'nothing/here-v0'"),
        (["--agent", "flow-bc", "--demos", NAME, "--num-envs", "2"], "--num-envs"),
        (["--agent", "flow-ppo", "--from", "EXPERT"], "flow-sac, nfq, sac do"),
        (["--agent", "sac", "--from", "EXPERT"], "--agent flow-sac"),
        (["--agent", "flow-sac", "--from", "EXPERT", "--flow", "radial"], "its flow is triangular, not radial"),
        (
            ["--agent", "flow-sac", "--from", "EXPERT", "--set", "policy_kwargs.flow_kwargs={'context_gain':0.5}"],
            "its context_gain is 1.0, not 0.5",
        ),
        (
            ["--agent", "flow-sac", "--from", "EXPERT", "--set", "policy_kwargs.activation_fn=Tanh"],
            "its activation_fn is ReLU, not Tanh",
        ),
        (["--agent", "flow-sac", "--from", "EXPERT", "--set", "policy_kwargs.net_arch=[9]"], "the policies differ"),
        (["--agent", "flow-sac", "--from", "EXPERT", "--set", "normalize=False"], "its normalize is True, not False"),
        (["--agent", "flow-sac", "--from", "nowhere"], "nowhere is no run directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gives_one_line_and_exit_code_2(expert, tmp_path, capsys, arguments, expected):
    arguments = [str(expert) if word == "EXPERT" else word for word in arguments]
    assert main(["--env", "Pendulum", *arguments, "--logdir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and expected in message
    assert not list(tmp_path.iterdir()), "nothing is written for a run that never starts"


def test_a_policy_of_another_activation_is_taken_with_it(root):
    tanh = ("--set", "policy_kwargs.activation_fn=Tanh", "--eval-every", "0")
    source = train(root / "tanh", "flow-sac", *tanh, steps=20)
    assert RunDirectory.open(source).config["hyperparameters"]["policy_kwargs"]["activation_fn"] == "Tanh"
    tuned = train(root / "tuned-tanh", "flow-sac", "--from", str(source), "--eval-every", "0", steps=20)
    model = RunDirectory.open(tuned).load_model(SAC, "last", None, "cpu")
    assert any(isinstance(module, torch.nn.Tanh) for module in model.actor.latent_pi)


@pytest.mark.parametrize("name", ["best_model.zip", "best_vecnormalize.pkl"])
def test_a_damaged_source_is_one_line(expert, tmp_path, capsys, name):
    copy = tmp_path / "copy"
    shutil.copytree(expert, copy)
    (copy / name).write_bytes(b"garbage")
    assert main(["--env", "Pendulum", "--agent", "flow-sac", "--from", str(copy), "--logdir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and f"{name} does not load" in message


# -- NFQ ------------------------------------------------------------------------------------------------------------


def test_transitions_hold_what_minari_holds(expert):
    data = demonstrations.load_transitions(NAME, PENDULUM.observation_space, PENDULUM.action_space)
    episodes = list(minari.load_dataset(NAME).iterate_episodes())
    assert len(data) == 600 and data.truncations.sum() == 3 and not data.terminations.any()
    np.testing.assert_array_equal(data.next_observations[:199], data.observations[1:200])
    np.testing.assert_array_equal(data.next_observations[199], episodes[0].observations[200])
    np.testing.assert_allclose(data.rewards[200:400], episodes[1].rewards, rtol=1e-6)


def test_nfq_learns_from_a_data_set_resumes_and_hands_all_it_knows_on(expert, root):
    more = ("--flow", "triangular", "--eval-every", "0")
    path = train(root / "offline", "nfq", "--demos", NAME, *more, "--checkpoint-every", "10", steps=20)
    assert main(["--resume", str(path), "--steps", "30", "--no-progress"]) == 0
    model = RunDirectory.open(path).load_model(NFQ, "last", None, "cpu")
    assert model.num_timesteps == 30 and model.is_offline and model.cql_weight > 0
    tuned = train(root / "online", "nfq", "--from", str(path), "--eval-every", "0", steps=20)
    other = RunDirectory.open(tuned)
    assert "cql_weight" not in other.config["hyperparameters"], "the data are the policy's own again"
    assert other.config["critic_warmup"] == 0 and other.config["hyperparameters"]["learning_starts"] == 50
    weights, taken = model.policy.state_dict(), other.load_model(NFQ, "last", None, "cpu").policy.state_dict()
    same = {name: torch.equal(weights[name], taken[name]) for name in weights}
    assert all(same[name] or "normalization" in name for name in same), "nothing was learned in 20 steps"
    assert [float(state["normalization.count"]) for state in (weights, taken)] == [600, 620]


def test_nfq_starts_from_its_own_kind_alone(expert, capsys):
    assert main(["--env", "Pendulum", "--agent", "nfq", "--from", str(expert)]) == 2
    assert "nfq cannot start with the actor of flow-sac; use --agent flow-sac" in capsys.readouterr().err


def test_nfqs_temperature_goes_with_it_and_the_cure_for_another_agent_is_none_of_a_circle(root, capsys):
    more = ("--flow", "gaussian", "--eval-every")
    path = train(
        root / "warm", "nfq", *more, "15", "--set", "ent_coef=linear_0.9_0.1", "--set", "learning_starts=5", steps=30
    )
    source = RunDirectory.open(path)
    alpha = source.load_model(NFQ, "best", None, "cpu").temperature
    assert 0.1 < alpha < 0.9, "the best model was saved on the way"
    for asked, expected in (((), alpha), (("--set", "ent_coef=0.3"), 0.3)):
        tuned = RunDirectory.open(
            train(root / f"{expected}", "nfq", "--from", str(path), *more[2:], "0", *asked, steps=20)
        )
        assert tuned.load_model(NFQ, "last", None, "cpu").temperature == pytest.approx(expected)
    assert main(["--env", "Pendulum", "--agent", "flow-sac", "--from", str(path)]) == 2
    assert "flow-sac cannot start with the actor of nfq; use --agent nfq" in capsys.readouterr().err
