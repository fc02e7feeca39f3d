"""Flow agents learn: a bandit in seconds, and (slow) Pendulum to the returns that the README promises."""

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from agents import hyperparameters, make_agent
from tests.environments import Aim
from tests.models import build

# Reward: minus the mean squared distance to a point that the state tells. The middle of the box, where an
# untrained policy stands, gets -0.8^2 / 3 = -0.21.
UNTRAINED, LEARNT = -0.15, -0.05


def evaluate_bandit(model) -> float:
    """Mean reward of the deterministic action."""
    env = make_vec_env(lambda: Aim(horizon=1), seed=7)
    return evaluate_policy(model, env, n_eval_episodes=200)[0]


@pytest.mark.parametrize("flow", [pytest.param("triangular", marks=pytest.mark.slow), "nsf"])
def test_sac_learns_a_bandit(flow):
    schedule = dict(learning_starts=64, train_freq=8, gradient_steps=6, batch_size=64, learning_rate=1e-2)
    model = build("SAC", Aim(horizon=1), policy_kwargs=dict(flow=flow), **schedule)
    assert evaluate_bandit(model) < UNTRAINED
    model.learn(400)
    assert evaluate_bandit(model) > LEARNT


@pytest.mark.parametrize("flow", ["triangular", pytest.param("nsf", marks=pytest.mark.slow)])
def test_ppo_learns_a_bandit(flow):
    env = make_vec_env(lambda: Aim(horizon=1), n_envs=16, seed=0)
    schedule = dict(n_steps=32, batch_size=128, n_epochs=8, learning_rate=5e-3)
    model = build("PPO", env, policy_kwargs=dict(flow=flow), **schedule)
    assert evaluate_bandit(model) < UNTRAINED
    model.learn(2_048)
    assert evaluate_bandit(model) > LEARNT


@pytest.mark.slow
@pytest.mark.parametrize("name, steps, threshold", [("flow-sac", 10_000, -200.0), ("flow-ppo", 200_000, -300.0)])
def test_agents_learn_pendulum(name, steps, threshold):
    """With the hyperparameters of `agents`, one fixed seed, evaluated on an environment of its own."""
    settings = hyperparameters(name.removeprefix("flow-"), "Pendulum")
    settings.pop("steps")
    env = make_vec_env("Pendulum-v1", n_envs=settings.pop("n_envs"), seed=0)
    if settings.pop("normalize"):
        env = VecNormalize(env)
    model = make_agent(name, env, settings, seed=0, device="cpu")
    model.learn(steps)
    returns, _ = evaluate_policy(model, evaluation_of(env), n_eval_episodes=20, return_episode_rewards=True)
    print(f"{name}: {np.mean(returns):.0f} +- {np.std(returns):.0f} after {steps} steps")
    assert np.mean(returns) >= threshold


def evaluation_of(env):
    """A fresh Pendulum, normalised by the training environment's statistics where there are any."""
    fresh = make_vec_env("Pendulum-v1", seed=1_000)
    if not isinstance(env, VecNormalize):
        return fresh
    fresh = VecNormalize(fresh, training=False, norm_reward=False)
    fresh.obs_rms = env.obs_rms
    return fresh
