"""Behaviour cloning: the exact likelihood of what was done, also on the box's edge, and a model that is SAC's."""

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import flowrl
from flowrl import algorithms
from flowrl.algorithms import BehaviourCloning, Demonstrations
from flowrl.policies.action_box import EDGE
from tests.environments import HIGH, LOW, Aim, Spaces
from tests.models import assert_same_policy, perturb

SETTINGS = dict(learning_starts=0, buffer_size=1, batch_size=64, learning_rate=1e-2, seed=0, device="cpu")
CENTER, HALF = (np.array(HIGH) + LOW) / 2, (np.array(HIGH) - LOW) / 2


def cloning(env=None, flow="triangular", **policy_kwargs):
    policy_kwargs = dict(net_arch=[16]) | policy_kwargs | (dict(flow=flow) if flow else {})
    return BehaviourCloning(
        "FlowPolicy" if flow else "MlpPolicy", env or Aim(), policy_kwargs=policy_kwargs, **SETTINGS
    )


def aimed(n, seed=0, noise=0.1):
    """The best action of each state of `Aim`, with noise."""
    random = np.random.default_rng(seed)
    observations = random.uniform(-1, 1, (n, 3)).astype(np.float32)
    scaled = np.clip(0.8 * observations[:, :2] + noise * random.normal(size=(n, 2)), -1, 1)
    return Demonstrations(observations, (CENTER + HALF * scaled).astype(np.float32))


@pytest.mark.parametrize("flow", ["triangular", None], ids=str)
def test_it_learns_what_was_done(flow):
    model = cloning(flow=flow).imitate(aimed(500), aimed(100, seed=1))
    before = model.mean_log_likelihood(model.held_out)
    critic = [parameter.clone() for parameter in model.critic.parameters()]
    model.learn(300)
    # Noise of 0.1 in half-widths of the box has the entropy log(0.1 * 2.5) + log(0.1 * 5) + log(2 pi e) = 0.76 nats
    assert before < -3.5 and model.mean_log_likelihood(model.held_out) > -0.76 - 0.8
    assert all(torch.equal(a, b) for a, b in zip(critic, model.critic.parameters())), "only the actor is trained"
    actions, _ = model.predict(model.held_out.observations, deterministic=True)
    expected = CENTER + HALF * 0.8 * model.held_out.observations[:, :2]
    assert np.abs((actions - expected) / HALF).mean() < 0.06


@pytest.mark.parametrize("flow", ["triangular", "nsf", None], ids=str)
@torch.no_grad()
def test_the_likelihood_is_a_density_of_environment_actions(flow):
    model = cloning(flow=flow)
    perturb(model.actor)
    n = 400
    middles = (np.arange(n) + 0.5) / n
    grid = np.stack(np.meshgrid(*(low + (high - low) * middles for low, high in zip(LOW, HIGH))), -1).reshape(-1, 2)
    steps = Demonstrations(np.tile(np.float32([[0.1, -0.2, 0.3]]), (len(grid), 1)), grid.astype(np.float32))
    mass = model.log_likelihood(steps).double().exp().sum().item() * np.prod(2 * HALF) / n**2
    assert mass == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("flow", ["triangular", "nsf", None], ids=str)
@pytest.mark.parametrize("corner", [(-1, -1), (1, 1), (-1, 1)])
def test_an_action_on_the_edge_counts_as_one_just_inside(flow, corner):
    model = cloning(flow=flow)
    observations = np.zeros((1, 3), np.float32)

    def score(scaled):
        actions = (CENTER + HALF * np.array(scaled, float)[None]).astype(np.float32)
        return model.log_likelihood(Demonstrations(observations, actions))

    edge = score(corner)
    torch.testing.assert_close(edge, score(np.array(corner) * (1 - EDGE)), rtol=1e-3, atol=1e-2)
    edge.sum().backward()
    gradients = [parameter.grad for parameter in model.actor.parameters() if parameter.grad is not None]
    assert edge.isfinite() and gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_demonstrations_on_the_edge_alone_can_be_cloned():
    demonstrations = Demonstrations(aimed(200).observations, np.tile(np.float32([HIGH]), (200, 1)))
    model = cloning().imitate(demonstrations).learn(100)
    assert np.isfinite(model.mean_log_likelihood(demonstrations))
    actions, _ = model.predict(demonstrations.observations)
    assert (np.abs(actions - HIGH) / HALF < 0.2).mean() > 0.95


@pytest.mark.parametrize("flow", ["triangular", None], ids=str)
def test_sac_goes_on_from_a_saved_clone(flow, tmp_path):
    env = Aim()
    cloning(env, flow).imitate(aimed(100)).learn(20).save(tmp_path / "model")
    clone = BehaviourCloning.load(tmp_path / "model", env=env)
    assert clone.demonstrations is None, "the data are not in the file"
    for algorithm in (algorithms.SAC, stable_baselines3.SAC):
        model = algorithm.load(
            tmp_path / "model", env=env, buffer_size=100, custom_objects=dict(learning_starts=10, batch_size=8)
        )
        obs = aimed(5).observations
        assert np.array_equal(model.predict(obs, deterministic=True)[0], clone.predict(obs, deterministic=True)[0])
        if flow:
            assert_same_policy(model, clone, env)
        model.learn(30, reset_num_timesteps=True)


def test_normalised_observations_are_normalised_by_the_demonstrations():
    env = VecNormalize(make_vec_env(Aim), norm_reward=False)
    demonstrations = aimed(300)
    demonstrations = Demonstrations(demonstrations.observations * [1, 10, 100], demonstrations.actions)
    model = cloning(env).imitate(demonstrations)
    np.testing.assert_allclose(env.obs_rms.mean, demonstrations.observations.mean(0), rtol=1e-6)
    np.testing.assert_allclose(env.obs_rms.var, demonstrations.observations.var(0), rtol=1e-6)
    model.learn(5)
    assert env.obs_rms.count == 300, "and stay so"


@pytest.mark.parametrize("observation, policy", [("dict", "FlowMultiInputPolicy"), ("image", "FlowCnnPolicy")])
def test_dictionaries_and_images_can_be_cloned(observation, policy):
    env = Aim(observation=observation)
    samples = [env.observation_space.sample() for _ in range(30)]
    if observation == "dict":
        observations = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    else:
        observations = np.stack(samples)
    demonstrations = Demonstrations(observations, aimed(30).actions)
    assert len(demonstrations.take(slice(7))) == 7
    model = BehaviourCloning(policy, env, policy_kwargs=dict(net_arch=[16]), **SETTINGS)
    before = model.mean_log_likelihood(demonstrations)
    model.imitate(demonstrations).learn(15)
    assert model.mean_log_likelihood(demonstrations) > before


def test_a_step_is_an_update_from_the_first_on(tmp_path):
    small = dict(buffer_size=1, batch_size=8, device="cpu", policy_kwargs=dict(net_arch=[8]))
    assert BehaviourCloning("FlowPolicy", Aim(), **small).imitate(aimed(20)).learn(3)._n_updates == 3
    algorithms.SAC("FlowPolicy", Aim(), **small, train_freq=2, gradient_steps=0).save(tmp_path / "model")
    loaded = BehaviourCloning.load(tmp_path / "model", env=Aim()).imitate(aimed(20))
    assert loaded.learn(3)._n_updates == 3, "whatever SAC's file says"


@pytest.mark.parametrize(
    "setting",
    [dict(learning_starts=100), dict(gradient_steps=5), dict(train_freq=4), dict(train_freq=(1, "episode"))],
    ids=str,
)
def test_other_numbers_of_updates_are_refused(setting):
    with pytest.raises(ValueError, match="is one update: expected learning_starts=0, train_freq=1 and gradient_steps"):
        BehaviourCloning("FlowPolicy", Aim(), **SETTINGS | setting)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("flow", "error", "message"),
    [
        ("triangular", flowrl.Diverged, "log_likelihood = nan"),
        (None, ValueError, "Expected parameter loc|log_likelihood = nan"),  # torch's, unless zuko has switched it off
    ],
    ids=["triangular", "None"],
)
def test_what_is_not_finite_is_said_and_loses_no_weight(flow, error, message, value):
    demonstrations = aimed(4)
    demonstrations.observations[0, 1] = value
    model = cloning(flow=flow).imitate(demonstrations)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with pytest.raises(error, match=message):
        model.learn(5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_a_box_that_float32_does_not_resolve_is_cloned_to_its_edges():
    env = Aim()
    env.action_space = spaces.Box(1000.1, 1000.3, (2,), np.float64)
    actions = np.tile([[1000.1, 1000.3]], (5, 1))
    model = BehaviourCloning("FlowPolicy", env, policy_kwargs=dict(net_arch=[16]), device="cpu")
    for precision in (np.float64, np.float32):
        model.imitate(Demonstrations(np.zeros((5, 3), np.float32), actions.astype(precision)))
        assert model.log_likelihood(model.demonstrations).isfinite().all()


ROWS, MIDDLE = np.zeros((5, 3), np.float32), np.tile(np.float32([CENTER]), (5, 1))


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (ROWS[:2], MIDDLE, r"observations have shape \(2, 3\).*expected \(5, 3\)"),
        (ROWS, MIDDLE[:2], r"observations have shape \(5, 3\).*expected \(2, 3\)"),
        (ROWS[:, :2], MIDDLE, r"observations have shape \(5, 2\).*expected \(5, 3\)"),
        (dict(state=ROWS), MIDDLE, "observations must be like the environment's"),
        (ROWS, MIDDLE[:, :1], r"actions have shape \(5, 1\).*expected \(5, 2\)"),
        (ROWS, MIDDLE[:, 0], r"actions have shape \(5,\).*expected \(5, 2\)"),
        (ROWS, 100 * MIDDLE, "actions reach from .* to 500.0, the environment's are Box.*clip them"),
        (ROWS, np.nan * MIDDLE, "actions reach from nan"),
        (ROWS[:0], MIDDLE[:0], "is empty"),
    ],
    ids=[
        "fewer observations",
        "fewer actions",
        "narrower observations",
        "dictionaries",
        "narrower actions",
        "actions without a width",
        "actions of other units",
        "actions of NaN",
        "nothing",
    ],
)
def test_demonstrations_of_something_else_are_refused(observations, actions, message):
    model, wrong = cloning(), Demonstrations(observations, actions)
    for given in ((wrong,), (aimed(5), wrong)):
        with pytest.raises(ValueError, match=message):
            model.imitate(*given)
    assert model.demonstrations is None


def test_images_are_checked_in_either_form():
    env = Spaces(spaces.Dict(a=spaces.Box(0, 255, (36, 36, 1), np.uint8)))
    model = BehaviourCloning("FlowMultiInputPolicy", env, policy_kwargs=dict(net_arch=[8]), **SETTINGS)
    images, actions = np.zeros((4, 36, 36, 1), np.uint8), np.zeros((4, 2))
    for given in (images, images.transpose(0, 3, 1, 2)):
        model.imitate(Demonstrations(dict(a=given), actions))
    with pytest.raises(ValueError, match="observations.* have shape"):
        model.imitate(Demonstrations(dict(a=images[:, :30]), actions))


def test_another_algorithms_policy_is_refused(tmp_path):
    model = algorithms.NFQ("FlowPolicy", Aim(), policy_kwargs=dict(net_arch=[8]), device="cpu", buffer_size=1)
    with pytest.raises(TypeError, match="BehaviourCloning has no use for a SoftQPolicy"):
        BehaviourCloning(model.policy_class, Aim(), **SETTINGS)
    model.save(tmp_path / "model")
    with pytest.raises(TypeError, match="load a file with the class that saved it"):
        BehaviourCloning.load(tmp_path / "model", env=Aim())


def test_gsde_is_refused():
    with pytest.raises(ValueError, match="use_sde=False"):
        BehaviourCloning("MlpPolicy", Aim(), use_sde=True, **SETTINGS)


def test_learning_from_nothing_is_refused():
    with pytest.raises(ValueError, match="call imitate"):
        cloning().learn(1)
