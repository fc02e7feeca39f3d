"""The options of the algorithms and of their policies do what Stable-Baselines3's do."""

import numpy as np
import pytest
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from tests.conformance.learners import STEPS
from tests.environments import Aim, ReachGoal


def aims(n):
    return DummyVecEnv([Aim] * n)


def finite(model):
    """A model whose weights are numbers."""
    assert model._n_updates > 0
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    return model


# Of every learner


def test_gsde(learner, supports):
    with supports("gSDE"):
        finite(learner.make(use_sde=True).learn(STEPS))


def test_a_learning_rate_falls(learner):
    model = finite(learner.make(learning_rate=LinearSchedule(1e-3, 1e-4, 0.5)).learn(2 * STEPS))
    networks = (model.actor, model.critic) if learner.off_policy else (model.policy,)
    scales = (getattr(model, "flow_lr_scale", 1.0), 1.0)  # NFQ's flow learns at a fraction of the rate
    for network, scale in zip(networks, scales, strict=False):
        assert network.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * scale)


@pytest.mark.parametrize("net_arch", ["none", "two", "of their own"])
def test_networks_of_any_size(learner, net_arch):
    critic = "qf" if learner.off_policy else "vf"
    sizes = {"none": [], "two": [8, 4], "of their own": {"pi": [4], critic: [6, 3]}}[net_arch]
    finite(learner.make(policy_kwargs=dict(net_arch=sizes)).learn(STEPS))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ELU], ids=lambda activation: activation.__name__)
def test_activation_functions(learner, activation):
    model = finite(learner.make(policy_kwargs=dict(activation_fn=activation)).learn(STEPS))
    network = model.actor.latent_pi if learner.off_policy else model.policy.mlp_extractor.policy_net
    assert any(isinstance(module, activation) for module in network.modules())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, RMSpropTFLike], ids=lambda cls: cls.__name__)
def test_optimisers(learner, optimizer):
    model = finite(learner.make(policy_kwargs=dict(optimizer_class=optimizer)).learn(STEPS))
    held = model.actor.optimizer if learner.off_policy else model.policy.optimizer
    assert type(held) is optimizer


def test_options_of_the_optimiser(learner):
    """A2C has RMSprop with options of its own, where no class is named."""
    kwargs = dict(optimizer_class=torch.optim.Adam, optimizer_kwargs=dict(eps=1e-3, weight_decay=0.1))
    model = finite(learner.make(policy_kwargs=kwargs).learn(STEPS))
    held = model.actor.optimizer if learner.off_policy else model.policy.optimizer
    assert held.param_groups[0]["eps"] == 1e-3 and held.param_groups[0]["weight_decay"] == 0.1


class Trained(FlattenExtractor):
    """A user's extractor, of a size of its own.

    :param size: of its output
    """

    def __init__(self, observation_space, size=5):
        super().__init__(observation_space)
        self._features_dim = size
        self.linear = nn.Linear(3, size)

    def forward(self, observations):
        return self.linear(super().forward(observations))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "one each"])
def test_extractors_of_features(learner, shared):
    kwargs = dict(
        features_extractor_class=Trained,
        features_extractor_kwargs=dict(size=4),
        share_features_extractor=shared,
    )
    model = finite(learner.make(policy_kwargs=kwargs).learn(STEPS))
    actor = model.actor.features_extractor if learner.off_policy else model.policy.pi_features_extractor
    critic = model.critic.features_extractor if learner.off_policy else model.policy.vf_features_extractor
    assert isinstance(actor, Trained) and actor.linear.out_features == 4
    assert (actor is critic) == shared


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "one each"])
def test_extractors_of_images(learner, supports, shared):
    kwargs = dict(share_features_extractor=shared, features_extractor_kwargs=dict(features_dim=4))
    with supports("images"):
        finite(learner.make(Aim(observation="image"), "FlowCnnPolicy", kwargs).learn(STEPS))


def test_gamma_and_the_number_of_environments(learner):
    model = finite(learner.make(aims(3), gamma=0.5).learn(3 * STEPS))
    assert model.gamma == 0.5 and model.num_timesteps % 3 == 0


# Of those with a replay buffer


@pytest.mark.parametrize("gradient_steps, updates", [(1, 2), (2, 4), (-1, 8)])
def test_gradient_steps(off_policy, gradient_steps, updates):
    """-1: as many as there were steps in the environment."""
    assert off_policy.make(gradient_steps=gradient_steps).learn(STEPS)._n_updates == updates


@pytest.mark.parametrize("train_freq, updates", [(2, 3), ((8, "step"), 1), ((1, "episode"), 2)], ids=str)
def test_how_often_it_trains(off_policy, train_freq, updates):
    model = off_policy.make(Aim(horizon=5), train_freq=train_freq).learn(STEPS)
    assert model._n_updates == updates
    assert model.num_timesteps == (10 if train_freq == (1, "episode") else STEPS)


@pytest.mark.parametrize("train_freq", ["episode", (1, "epoch"), (1.5, "step")], ids=str)
def test_frequencies_that_are_none(off_policy, train_freq):
    with pytest.raises(ValueError, match=r"train[_ ]freq|frequency"):
        off_policy.make(train_freq=train_freq)


def test_whole_episodes_need_one_environment(off_policy):
    with pytest.raises(AssertionError, match="only one env when doing episodic training"):
        off_policy.make(aims(2), train_freq=(1, "episode")).learn(STEPS)


def test_returns_of_several_steps(off_policy):
    model = finite(off_policy.make(Aim(horizon=5), n_steps=3).learn(STEPS))
    assert model.replay_buffer.n_steps == 3
    discounts = model.replay_buffer.sample(32).discounts
    assert discounts.min() < 0.99 and discounts.shape == (32, 1)


def test_the_buffer_that_saves_memory(off_policy):
    options = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = finite(off_policy.make(**options).learn(STEPS))
    assert not hasattr(model.replay_buffer, "next_observations")
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        off_policy.make(optimize_memory_usage=True)


class MyBuffer(ReplayBuffer):
    """A user's own."""


def test_a_buffer_of_the_users(off_policy):
    assert type(finite(off_policy.make(replay_buffer_class=MyBuffer).learn(STEPS)).replay_buffer) is MyBuffer


def test_a_small_buffer_forgets(off_policy):
    assert off_policy.make(buffer_size=5).learn(STEPS).replay_buffer.full


def test_dictionaries_are_stored(off_policy, supports):
    with supports("dictionaries"):
        model = finite(off_policy.make(Aim(observation="dict"), "FlowMultiInputPolicy").learn(STEPS))
        assert isinstance(model.replay_buffer, DictReplayBuffer)


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_hindsight(off_policy, supports, strategy, tmp_path):
    options = dict(
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=dict(goal_selection_strategy=strategy, n_sampled_goal=2),
        learning_starts=12,  # a whole episode
    )
    with supports("dictionaries"):
        model = finite(off_policy.make(ReachGoal(), "FlowMultiInputPolicy", **options).learn(2 * STEPS))
        model.save_replay_buffer(tmp_path / "buffer")
        model.save(tmp_path / "model")
        loaded = off_policy.algorithm.load(tmp_path / "model", env=ReachGoal(), device="cpu")
        loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=True)
        loaded.learn(STEPS, reset_num_timesteps=False)


@pytest.mark.parametrize("kind", ["normal", "Ornstein-Uhlenbeck", "of each environment"])
def test_noise_on_top_of_actions(off_policy, kind):
    normal = NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))
    noise = {
        "normal": normal,
        "Ornstein-Uhlenbeck": OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.1 * np.ones(2)),
        "of each environment": VectorizedActionNoise(normal, 2),
    }[kind]
    finite(off_policy.make(aims(2 if kind == "of each environment" else 1), action_noise=noise).learn(2 * STEPS))


@pytest.mark.parametrize("ent_coef", ["auto", "auto_0.5", 0.2], ids=str)
def test_temperatures(off_policy, ent_coef):
    model = finite(off_policy.make(ent_coef=ent_coef).learn(STEPS))
    assert (model.ent_coef_optimizer is None) == (ent_coef == 0.2)
    if ent_coef == "auto_0.5":
        assert model.log_ent_coef.exp().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("n_critics", [1, 3])
def test_numbers_of_critics(off_policy, n_critics):
    finite(off_policy.make(policy_kwargs=dict(n_critics=n_critics)).learn(STEPS))


@pytest.mark.parametrize("interval", [1, 2])
def test_the_target_network_and_its_interval(off_policy, interval):
    """Beside targets made by hand, of the critics after each of three updates, the first of which always moves them."""
    if not hasattr(off_policy.make(), "critic_target"):
        pytest.skip("there is none in CrossQ")
    target = list(off_policy.make().critic.parameters())
    for step in range(3):
        model = off_policy.make(  # trains once, when the last step is taken
            learning_starts=12, gradient_steps=step + 1, tau=0.5, target_update_interval=interval
        ).learn(2 * STEPS)
        assert model._n_updates == step + 1
        if step % interval == 0:
            target = [(old + new) / 2 for old, new in zip(target, model.critic.parameters(), strict=True)]
    torch.testing.assert_close(list(model.critic_target.parameters()), target)


def test_the_entropy_that_is_aimed_at(off_policy):
    assert off_policy.make().target_entropy == -2.0
    assert off_policy.make(target_entropy=-0.5).target_entropy == -0.5


# Of those with rollouts


def test_rollouts(on_policy):
    model = finite(on_policy.make(aims(2), n_steps=4).learn(STEPS))
    assert model.rollout_buffer.buffer_size == 4 and model.rollout_buffer.n_envs == 2
    assert model.num_timesteps == STEPS


def test_gae_entropy_bonus_and_norms(on_policy):
    options = dict(gae_lambda=0.5, normalize_advantage=False)
    if hasattr(on_policy.make(), "ent_coef") and on_policy.name != "TRPO":
        options |= dict(ent_coef=0.1, vf_coef=0.2, max_grad_norm=0.1)
    finite(on_policy.make(**options).learn(STEPS))


class MyRollout(RolloutBuffer):
    """A user's own."""


def test_a_rollout_buffer_of_the_users(on_policy, supports):
    with supports("rollout buffers without room for paths"):
        assert type(on_policy.make(rollout_buffer_class=MyRollout).learn(STEPS).rollout_buffer) is MyRollout


def test_a_limit_on_the_divergence_stops_an_epoch(on_policy):
    if on_policy.like.__name__ != "PPO":
        pytest.skip("an option of PPO")
    model = on_policy.make(target_kl=1e-12, n_epochs=10, learning_rate=0.1).learn(2 * STEPS)
    assert model._n_updates == 2, "one epoch a rollout"


@pytest.mark.parametrize("clip_range_vf", [None, 0.2], ids=str)
def test_clip_ranges(on_policy, clip_range_vf):
    if on_policy.like.__name__ != "PPO":
        pytest.skip("an option of PPO")
    model = on_policy.make(clip_range=lambda remaining: 0.1 + 0.1 * remaining, clip_range_vf=clip_range_vf)
    finite(model.learn(STEPS))
    logged = model.logger.name_to_value
    assert logged["train/clip_range"] == pytest.approx(0.1), "of the last rollout, when nothing remains"
    assert logged.get("train/clip_range_vf") == clip_range_vf
    if clip_range_vf:
        with pytest.raises(AssertionError, match="clip_range_vf"):
            on_policy.make(clip_range_vf=-0.1)


@pytest.mark.parametrize("use_rms_prop", [True, False])
def test_the_optimiser_of_a2c(on_policy, use_rms_prop):
    if on_policy.like.__name__ != "A2C":
        pytest.skip("an option of A2C")
    model = finite(on_policy.make(use_rms_prop=use_rms_prop).learn(STEPS))
    assert isinstance(model.policy.optimizer, torch.optim.RMSprop if use_rms_prop else torch.optim.Adam)


def test_minibatches_that_are_none(on_policy):
    if on_policy.like.__name__ == "A2C":
        pytest.skip("A2C has none")
    with pytest.raises(AssertionError, match=r"n_steps \* n_envs"):
        on_policy.make(n_steps=1)
    with pytest.warns(UserWarning, match="truncated mini-batch"):
        on_policy.make(n_steps=9)


def test_a_rollout_needs_an_observation_to_start_from(on_policy):
    model = on_policy.make()
    with pytest.raises(AssertionError, match="No previous observation"):
        model.collect_rollouts(model.env, None, model.rollout_buffer, 4)


@pytest.mark.parametrize("ortho_init", [True, False])
def test_how_weights_start(on_policy, ortho_init):
    model = on_policy.make(policy_kwargs=dict(ortho_init=ortho_init, log_std_init=-1.0))
    finite(model.learn(STEPS))
