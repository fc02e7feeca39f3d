"""Behaviour cloning: the exact likelihood of what was done, also on the box's edge, and a model that is SAC's."""

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from flowrl import algorithms
from flowrl.algorithms import BehaviourCloning, Demonstrations
from flowrl.policies.action_box import EDGE
from tests.environments import HIGH, LOW, Aim
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


def test_learning_from_nothing_is_refused():
    with pytest.raises(ValueError, match="call imitate"):
        cloning().learn(1)
