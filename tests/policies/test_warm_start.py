"""`from_gaussian`: a flow model goes on from a trained Gaussian one, with its actions and all its state."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import flowrl
from tests.environments import Aim, ReachGoal
from tests.models import (
    ALGORITHMS,
    OFF_POLICY,
    ON_POLICY,
    POLICY_FLOWS,
    assert_same_policy,
    build,
    head,
    observations,
    perturb,
)


def trained(algorithm: str, env=None, policy: str = "MlpPolicy", steps: int = 128, **kwargs):
    """A Gaussian model after some training, moved far from its start."""
    model = build(algorithm, env, policy, **kwargs)
    model.learn(steps)
    perturb(model.policy)
    return model


@cache
def example(algorithm: str):
    """Such a model, for tests that only read it."""
    return trained(algorithm)


@torch.no_grad()
def gaussian_log_prob(model, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """SB3's log-prob of emitted actions: in [-1, 1] off-policy (without its 1e-6), raw on-policy."""
    if isinstance(model, tuple(ALGORITHMS[name][0] for name in ON_POLICY)):
        return model.policy.get_distribution(obs).log_prob(actions)
    mean, log_std, _ = model.actor.get_action_dist_params(obs)
    u = torch.atanh(actions)
    normal = torch.distributions.Normal(mean, log_std.exp())
    return (normal.log_prob(u) - (1 - actions.square()).log()).sum(-1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_actions_and_log_probs_at_the_start(algorithm):
    gaussian = example(algorithm)
    warm = flowrl.from_gaussian(gaussian, "triangular")
    obs = observations(64)
    gaussian.policy.set_training_mode(False)
    warm.policy.set_training_mode(False)
    np.testing.assert_allclose(
        warm.predict(obs.numpy(), deterministic=True)[0],
        gaussian.predict(obs.numpy(), deterministic=True)[0],
        atol=1e-5,
    )
    actions = torch.rand(64, 2) * 1.8 - 0.9
    with torch.no_grad():
        log_prob = warm.policy.get_distribution(obs).log_prob(actions)
    torch.testing.assert_close(log_prob, gaussian_log_prob(gaussian, obs, actions), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_deviations_beyond_the_flows_bound_are_kept(algorithm, tmp_path):
    """SB3's PPO has its deviations in the box's units, without a bound."""
    gaussian = build(algorithm, policy="MlpPolicy")
    with torch.no_grad():
        gaussian.policy.log_std.copy_(torch.tensor([4.3, -1.0]))
    warm = flowrl.from_gaussian(gaussian, "triangular", dict(bins=4))
    assert flowrl.from_gaussian(gaussian).policy_kwargs["flow"] == "affine", "named"
    assert warm.policy_kwargs["flow_kwargs"] == dict(bins=4, log_std_max=5.0)
    obs, actions = observations(64), torch.randn(64, 2) * torch.tensor([70.0, 0.4])
    expected = gaussian_log_prob(gaussian, obs, actions)
    warm.save(tmp_path / "warm")
    for model in (warm, type(warm).load(tmp_path / "warm")):
        with torch.no_grad():
            log_prob = model.policy.get_distribution(obs).log_prob(actions)
        torch.testing.assert_close(log_prob, expected, atol=1e-4, rtol=1e-5)
    assert flowrl.from_gaussian(gaussian, flow_kwargs=dict(log_std_max=3.0)).policy.action_net.log_std_max == 3.0


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_every_flow_can_be_warm_started(algorithm, flow):
    gaussian = example(algorithm)
    warm = flowrl.from_gaussian(gaussian, flow=flow)
    obs = observations(64)
    actions = torch.rand(64, 2) * 1.8 - 0.9
    with torch.no_grad():
        log_prob = warm.policy.get_distribution(obs).log_prob(actions)
    torch.testing.assert_close(log_prob, gaussian_log_prob(gaussian, obs, actions), atol=1e-4, rtol=1e-4)
    assert warm.policy_kwargs["flow"] == flow


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_same_entropy_and_values_on_policy(algorithm):
    gaussian = example(algorithm)
    warm = flowrl.from_gaussian(gaussian, "triangular")
    obs = observations(64)
    with torch.no_grad():
        expected = gaussian.policy.get_distribution(obs).entropy().mean()
        assert warm.policy.entropy(obs, 256).mean().item() == pytest.approx(expected.item(), abs=0.05)
        assert torch.equal(warm.policy.predict_values(obs), gaussian.policy.predict_values(obs))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_state_of_training_is_kept(algorithm):
    gaussian = trained(algorithm, learning_rate=1e-3, gamma=0.9)
    before = copy.deepcopy(gaussian.policy.state_dict())
    warm = flowrl.from_gaussian(gaussian, "triangular")
    assert type(warm) is type(gaussian)
    assert warm.num_timesteps == gaussian.num_timesteps == 128
    assert (warm.learning_rate, warm.gamma, warm.seed) == (1e-3, 0.9, gaussian.seed)
    assert warm.get_env() is gaussian.get_env()
    assert warm._n_updates == gaussian._n_updates > 0
    if algorithm in OFF_POLICY:
        assert warm.replay_buffer is gaussian.replay_buffer
        assert warm.target_entropy == gaussian.target_entropy
        torch.testing.assert_close(warm.log_ent_coef, gaussian.log_ent_coef)
        for name, value in gaussian.critic.state_dict().items():
            assert torch.equal(warm.critic.state_dict()[name], value), name
        ours, theirs = (model.critic.optimizer.state_dict()["state"] for model in (warm, gaussian))
        assert theirs and all(torch.equal(ours[i]["exp_avg"], theirs[i]["exp_avg"]) for i in theirs)
    for name, value in before.items():
        assert torch.equal(gaussian.policy.state_dict()[name], value), "the Gaussian model is left as it was"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_goes_on_learning_saves_and_loads(algorithm, tmp_path):
    env = Aim()
    warm = flowrl.from_gaussian(trained(algorithm, env), flow="nsf", flow_kwargs=dict(bins=4))
    start = [parameter.clone() for parameter in head(warm.policy).parameters()]
    warm.learn(128, reset_num_timesteps=False)
    assert warm.num_timesteps == 256
    # A zero last layer hides the hidden ones from the very first update, no longer.
    assert all(not torch.equal(a, b) for a, b in zip(start, head(warm.policy).parameters(), strict=True))
    warm.save(tmp_path / "model")
    loaded = type(warm).load(tmp_path / "model", env=env)
    assert loaded.policy_kwargs["flow_kwargs"] == dict(bins=4)
    assert_same_policy(warm, loaded, env)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_from_a_saved_file_without_environment(algorithm, tmp_path):
    example(algorithm).save(tmp_path / "gaussian")
    gaussian = ALGORITHMS[algorithm][0].load(tmp_path / "gaussian")
    warm = flowrl.from_gaussian(gaussian, "triangular")
    obs = observations(8).numpy()
    np.testing.assert_allclose(
        warm.predict(obs, deterministic=True)[0], gaussian.predict(obs, deterministic=True)[0], atol=1e-5
    )


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_dictionaries_and_normalised_environments(algorithm):
    env = VecNormalize(make_vec_env(lambda: Aim(observation="dict"), n_envs=2, seed=0))
    gaussian = trained(algorithm, env, "MultiInputPolicy")
    warm = flowrl.from_gaussian(gaussian, "triangular")
    assert warm.get_vec_normalize_env() is env
    obs = env.reset()
    np.testing.assert_allclose(
        warm.predict(obs, deterministic=True)[0], gaussian.predict(obs, deterministic=True)[0], atol=1e-5
    )
    warm.learn(128, reset_num_timesteps=False)


def test_hindsight_replay():
    """Its buffer needs the environment when the model is set up."""
    gaussian = trained("SAC", ReachGoal(), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer)
    warm = flowrl.from_gaussian(gaussian, "triangular")
    assert warm.replay_buffer is gaussian.replay_buffer
    warm.learn(64, reset_num_timesteps=False)


def test_a_fixed_temperature_is_kept():
    warm = flowrl.from_gaussian(trained("SAC", ent_coef=0.07))
    assert warm.ent_coef_tensor.item() == pytest.approx(0.07)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_flow_policy_is_refused(algorithm):
    with pytest.raises(ValueError, match=r"from_gaussian needs .* Gaussian policy.*Flow"):
        flowrl.from_gaussian(build(algorithm))


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_gsde_is_refused(algorithm):
    with pytest.raises(ValueError, match="use_sde=False"):
        flowrl.from_gaussian(build(algorithm, policy="MlpPolicy", use_sde=True))


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match="from_gaussian needs DQN"):
        flowrl.from_gaussian(DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu"))
    with pytest.raises(ValueError, match="continuous"):
        flowrl.from_gaussian(build("PPO", "CartPole-v1", "MlpPolicy"))


class External(torch.nn.Module):
    """A flow of one's own, of which flowrl cannot know how to start it as a given Gaussian."""

    def __init__(self, features: int, context: int):
        super().__init__()
        self.mean = torch.nn.Linear(context, features)

    def forward(self, context: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(self.mean(context), 1.0), 1)


def test_an_external_flow_is_refused():
    with pytest.raises(ValueError, match="no Gaussian start"):
        flowrl.from_gaussian(build("SAC", policy="MlpPolicy"), flow=External)


def test_an_unknown_flow_is_refused_before_anything_is_built():
    gaussian = build("SAC", policy="MlpPolicy")
    with pytest.raises(ValueError, match="Did you mean 'nsf'"):
        flowrl.from_gaussian(gaussian, flow="nfs")


def test_random_numbers_of_the_gaussian_run_are_not_needed():
    """SAC's critics see the same values after the warm start as before it."""
    gaussian = example("SAC")
    warm = flowrl.from_gaussian(gaussian, "triangular")
    obs, actions = observations(8), torch.zeros(8, 2)
    for ours, theirs in zip(warm.critic(obs, actions), gaussian.critic(obs, actions)):
        assert torch.equal(ours, theirs)
    assert isinstance(warm, SAC)
