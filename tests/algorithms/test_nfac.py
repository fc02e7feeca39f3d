"""NFAC: its targets are right, it learns whole distributions, and it lives as SB3's algorithms do."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC as PlainSAC
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import flowrl
from flowrl.algorithms import NFAC, SAC
from flowrl.algorithms.nfac.held_noise import HeldNoise
from flowrl.algorithms.nfac.update import actor_loss, critic_loss, td_target, update
from flowrl.critics.heads import Atoms, make_head
from flowrl.critics.risk import find_distortion
from flowrl.envs.multi_task import MultiTask
from flowrl.plots import return_figure
from tests.environments import HIGH, LOW, Aim, ReachGoal
from tests.models import HAS_KERNELS, Precise, Scaled, observations, perturb

CRITICS = ["flow", "categorical", "quantile", "scalar"]


@pytest.fixture(autouse=True)
def single_precision():
    yield
    torch.set_default_dtype(torch.float32)


def nfac(env=None, double=False, policy_kwargs=None, **kwargs):
    extractor = dict(features_extractor_class=Precise) if double else {}
    kwargs = dict(learning_starts=50, batch_size=32, buffer_size=2_000, seed=0, device="cpu") | kwargs
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    network = dict(net_arch=[16], normalize_observations=not double) | extractor | (policy_kwargs or {})
    model = NFAC("FlowPolicy", env or Aim(), policy_kwargs=network, **kwargs)
    if double:
        perturb(model.policy)
    return model


def batch(n=40, d=2):
    random = torch.Generator().manual_seed(4)
    rows = [torch.randn(n, k, generator=random, dtype=torch.float64) for k in (3, d, 3)]
    dones = (torch.rand(n, 1, generator=random) < 0.3).double()
    return ReplayBufferSamples(rows[0], rows[1].tanh(), rows[2], dones, torch.randn(n, 1, generator=random).double())


def test_entropy_is_taken_from_every_atom_before_gamma_and_the_mask():
    data, head = batch(), make_head("quantile", n_atoms=3)
    atoms = Atoms(torch.randn(40, 3).double(), torch.full((3,), 1 / 3).double())
    log_prob, alpha = torch.randn(40).double(), torch.tensor(0.3, dtype=torch.float64)
    target = td_target(atoms, log_prob, data, alpha, 0.9, 2.0, head).atoms.values
    for row in range(40):
        for j in range(3):
            soft = atoms.values[row, j] - 0.3 * log_prob[row]
            expected = data.rewards[row, 0] / 2 + (0.0 if data.dones[row, 0] else 0.9 * soft)
            assert target[row, j].item() == pytest.approx(expected.item())


def test_extreme_targets_are_clipped_and_counted():
    data = batch()._replace(rewards=torch.zeros(40, 1).double())
    data.rewards[:10] = 1e12
    atoms = Atoms(torch.zeros(40, 4).double(), torch.full((4,), 0.25).double())
    target = td_target(atoms, torch.zeros(40).double(), data, torch.tensor(0.1).double(), 0.9, 1.0, make_head("flow"))
    assert target.atoms.values.abs().max() == 5 and target.clipped.item() == pytest.approx(0.25)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("risk", ["neutral", "cvar:0.3"])
def test_gradients_of_both_losses_agree_with_finite_differences(critic, risk):
    model, data = nfac(double=True, critic=critic), batch(6)
    head = model.critic.head
    target = head.smooth(Atoms(torch.randn(6, 5).double().sort(-1).values, torch.full((5,), 0.2).double()))

    def losses(actions):
        raw = model.critic.raw(data.observations, actions)
        yield critic_loss(head, raw, target)
        log_prob, alpha = actions.sum(-1), torch.tensor(0.2).double()
        yield actor_loss(head.atoms(raw), find_distortion(risk), log_prob, alpha, smallest=True)

    for i in range(2):
        assert torch.autograd.gradcheck(lambda actions: list(losses(actions))[i], data.actions.requires_grad_())  # noqa: B023


def test_one_update_moves_critics_actor_temperature_and_targets():
    model = nfac(double=True, learning_rate=1e-3, policy_delay=2)
    groups = dict(actor=model.actor, critic=model.critic, target=model.critic_target)

    def moved(move_targets):
        before = {name: [p.clone() for p in module.parameters()] for name, module in groups.items()}
        alpha = model.log_ent_coef.item()
        update(model, batch(), move_targets)
        model._n_updates += 1  # as train() counts
        now = {name: list(module.parameters()) for name, module in groups.items()}
        names = {n for n in groups if any(not torch.equal(a, b) for a, b in zip(before[n], now[n]))}
        return names | ({"alpha"} if model.log_ent_coef.item() != alpha else set())

    assert moved(False) == {"actor", "critic", "alpha"}
    assert moved(True) == {"critic", "target"}, "the actor waits for every second update"
    assert moved(True) == {"actor", "critic", "alpha", "target"}


@pytest.mark.parametrize("form", ["torch", *(["C"] if HAS_KERNELS else [])])
def test_losses_of_the_actor_are_those_of_the_updates_that_moved_it(form, monkeypatch):
    model = nfac(policy_delay=3).learn(100)
    if form == "torch":
        monkeypatch.setattr(model, "choose_update", lambda: None)
    assert (model.choose_update() is None) == (form == "torch")

    def logged(gradient_steps):
        model.logger.name_to_value.clear()
        model.train(gradient_steps, 32)
        return {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}

    of_actor = {"ent_coef_loss", "actor_loss"}
    model._n_updates = 0
    moving = logged(1)
    assert of_actor <= moving.keys()
    staying = logged(2)
    assert not of_actor & staying.keys() and {"critic_loss", "value", "ent_coef"} <= staying.keys()
    monkeypatch.setattr(
        model, "_torch_update", lambda batch, move_targets: torch.arange(6.0) + 10 * float(not model.moves_actor)
    )
    monkeypatch.setattr(model, "choose_update", lambda: None)
    means = logged(6)
    assert means["ent_coef_loss"] == 0.0 and means["actor_loss"] == 3.0
    assert means["critic_loss"] == pytest.approx(2 + 10 * 4 / 6)


SLOWER = [pytest.param(critic, marks=pytest.mark.slow) for critic in ("quantile", "scalar")]


@pytest.mark.parametrize("critic", ["flow", "categorical", *SLOWER])
def test_it_learns(critic, tmp_path):
    model = nfac(
        critic=critic, learning_rate=1e-2, learning_starts=100, ent_coef="auto_0.01", target_entropy="auto_1.5"
    )
    assert model.target_entropy == -3.0
    model.learn(600)
    obs = observations(64).numpy()
    action, _ = model.predict(obs, deterministic=True)
    best = (np.array(HIGH) + LOW) / 2 + (np.array(HIGH) - LOW) / 2 * 0.8 * obs[:, :2]
    assert np.abs((action - best) / (np.array(HIGH) - LOW) * 2).mean() < 0.3
    model.save(tmp_path / "model")
    loaded = NFAC.load(tmp_path / "model", env=model.env)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], action)
    assert loaded.reward_scale == model.reward_scale != 1
    assert loaded.policy.normalization.count == model.policy.normalization.count > 600 - 1
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.policy.normalization.count > model.policy.normalization.count


def test_noise_is_held_for_a_few_steps_and_is_normal():
    torch.manual_seed(0)
    held = HeldNoise(2.0, 3)
    draws = torch.stack([held.step(100) for _ in range(400)])
    torch.testing.assert_close(draws.flatten(0, 1).std(0), torch.ones(3), atol=0.05, rtol=0)
    again = (draws[1:] == draws[:-1]).all(-1).float().mean()
    mean_length = sum(k**-1 for k in range(1, 17)) / sum(k**-2 for k in range(1, 17))
    assert (1 - again).item() == pytest.approx(1 / mean_length, abs=0.03)
    model = nfac(make_vec_env(Aim, n_envs=2), noise_hold=2.0, learning_starts=10)
    model.learn(20)
    assert model.held_noise._noise.shape == (2, 2)
    model._last_obs = np.full((2, 3), np.nan, np.float32)
    with pytest.raises(flowrl.Diverged, match="action is not finite"):
        model._sample_action(0, n_envs=2)


@pytest.mark.parametrize("critic", CRITICS)
def test_returns_are_distributions_in_the_environments_rewards(critic):
    model = nfac(critic=critic)
    model.learn(60)
    obs = observations(5).numpy()
    action, _ = model.predict(obs)
    values, weights = model.returns(obs, action)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (np.diff(values, axis=1) >= 0).all()
    scaled = torch.as_tensor(model.policy.scale_action(action))
    q = torch.cat(model.critic(torch.as_tensor(obs), scaled), 1).mean(1).detach() * model.reward_scale
    np.testing.assert_allclose((values * weights).sum(1), q, rtol=1e-4, atol=1e-5)
    figure = return_figure(model, obs[:3])
    assert len(figure.axes) == 3 and figure.axes[0].get_xlabel() == "return"


class Gamble(gym.Env):
    """One step; the bolder the action, the better the mean and the worse the worst: a + 3 a noise, a in [0, 1]."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(0.0, 1.0, (1,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action[0] * (1 + 3 * self.np_random.normal())), True, False, {}


@pytest.mark.parametrize("critic", ["flow", pytest.param("categorical", marks=pytest.mark.slow)])
def test_an_actor_that_shuns_risk_does_not_gamble(critic):
    taken = {}
    for risk in ("neutral", "cvar:0.25"):
        model = nfac(Gamble(), critic=critic, risk=risk, learning_rate=1e-2, ent_coef=0.003, learning_starts=200)
        model.learn(600)
        taken[risk] = model.predict(np.zeros((1, 1), np.float32), deterministic=True)[0].item()
    assert taken["cvar:0.25"] < 0.2 and taken["neutral"] > taken["cvar:0.25"] + 0.3


@pytest.mark.parametrize(
    "architecture",
    [
        dict(norm="layer", unit_norm=True, input_shift=3.0),
        dict(norm="layer", unit_norm=True),
        dict(norm="rms", residual=True),
        dict(norm="batch"),
    ],
    ids=str,
)
def test_every_architecture_trains_saves_and_loads(architecture, tmp_path):
    model = nfac(policy_kwargs=dict(architecture=architecture, net_arch=[16, 16]))
    model.learn(60)
    assert model._n_updates == 10
    model.save(tmp_path / "model")
    loaded = NFAC.load(tmp_path / "model", env=model.env)
    obs = observations(8).numpy()
    np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, loaded)))
    if architecture.get("unit_norm"):
        for network in (*model.critic.networks, model.actor.latent_pi):
            linear = next(layer for layer in network if isinstance(layer, nn.Linear))
            torch.testing.assert_close(linear.weight.norm(dim=1), torch.ones(16))


@pytest.mark.parametrize("architecture", [None, dict(norm="layer"), dict(norm="layer", residual=True)], ids=str)
def test_the_activation_function_is_that_of_policy_kwargs(architecture):
    model = nfac(policy_kwargs=dict(activation_fn=nn.Tanh, architecture=architecture))
    for network in (*model.critic.networks, model.actor.latent_pi):
        kinds = {type(module) for module in network.modules()}
        assert nn.Tanh in kinds and nn.ReLU not in kinds


def test_batch_statistics_are_those_of_both_batches_and_there_is_no_target_network():
    model = nfac(double=True, policy_kwargs=dict(architecture=dict(norm="batch")))
    target = [p.clone() for p in model.critic_target.parameters()]
    of_critic, of_actor = (
        next(layer for layer in network if hasattr(layer, "updates"))
        for network in (model.critic.networks[0], model.actor.latent_pi)
    )
    model.policy.set_training_mode(True)
    update(model, batch(), True)
    assert of_critic.updates == 1, "one pass over both; the actor's goes by the running moments"
    assert of_actor.updates == 1, "in the states in which it learns; the next actions go by the running moments"
    assert of_critic.training and of_actor.training
    assert all(torch.equal(a, b) for a, b in zip(target, model.critic_target.parameters()))


def test_batch_statistics_of_dictionaries_are_those_of_both_batches():
    policy_kwargs = dict(architecture=dict(norm="batch"), net_arch=[16])
    settings = dict(learning_starts=20, batch_size=32, buffer_size=100, device="cpu")
    model = NFAC("FlowMultiInputPolicy", Aim(observation="dict"), policy_kwargs=policy_kwargs, **settings).learn(30)
    assert model._n_updates == 10


def test_returns_of_a_state_are_the_same_in_every_batch_and_move_no_statistics(tmp_path):
    model = nfac(policy_kwargs=dict(architecture=dict(norm="batch"))).learn(60)
    model.save(tmp_path / "model")
    norm = next(layer for layer in model.critic.networks[0] if hasattr(layer, "updates"))
    obs, updates = observations(4).numpy(), norm.updates.clone()
    action = model.predict(obs)[0]
    model.policy.set_training_mode(True)
    together, _ = model.returns(obs, action)
    alone = [model.returns(obs[i : i + 1], action[i : i + 1])[0][0] for i in range(4)]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(NFAC.load(tmp_path / "model").returns(obs, action)[0], together, rtol=1e-4, atol=1e-6)
    assert torch.equal(norm.updates, updates)


def test_returns_are_in_the_environments_rewards_behind_vec_normalize():
    env = VecNormalize(make_vec_env(lambda: Aim(reward=lambda action, state: 1_000.0)), gamma=0.5)
    model = nfac(env, critic="scalar", gamma=0.5, ent_coef=0.0, learning_rate=3e-3).learn(400)
    obs = env.normalize_obs(observations(8).numpy())
    values, _ = model.returns(obs, model.predict(obs)[0])
    # 2,000 but for the last step of twenty; what has been normalised is about 10 (the bound of VecNormalize)
    assert 1_000 < values.mean() < 3_000


def test_an_extractor_that_actor_and_critics_share_learns_by_the_actors_loss_alone():
    shared = dict(features_extractor_class=Scaled, share_features_extractor=True, normalize_observations=False)
    model = nfac(policy_kwargs=shared)
    extractor = model.actor.features_extractor
    assert model.critic.features_extractor is extractor
    obs, action = observations(5), torch.zeros(5, 2)
    raw = model.critic.raw(obs, action.requires_grad_())
    by_extractor, by_action = torch.autograd.grad(raw.sum(), [extractor.scale, action], allow_unused=True)
    assert by_extractor is None and by_action.abs().sum() > 0
    model.learn(60)
    assert not torch.equal(extractor.scale, torch.ones(3)), "the actor's loss trains it"


def test_observations_of_several_environments_are_counted():
    model = nfac(make_vec_env(Aim, n_envs=3), train_freq=1)
    model.learn(300)
    assert model.policy.normalization.count == 300


def test_in_dictionaries_each_vector_is_normalised_by_itself(tmp_path):
    env = MultiTask(observation="dict")
    arguments = dict(learning_starts=20, policy_kwargs=dict(normalize_observations=True), device="cpu", seed=0)
    model = NFAC("FlowMultiInputPolicy", env, **arguments)
    observed = []
    model.learn(60, callback=lambda now, _: observed.append(now["new_obs"]["observation"][0].copy()) is None)
    assert model._n_updates == 40 and list(model.policy.normalization.of) == ["observation"]
    statistics = model.policy.normalization.of["observation"]
    seen = np.array(observed)
    np.testing.assert_allclose(statistics.mean, seen.mean(0), rtol=1e-5, atol=1e-6)
    obs = env.reset(seed=0)[0]
    tensors, _ = model.policy.obs_to_tensor(obs)
    features = model.actor.extract_features(tensors, model.actor.features_extractor)[0].numpy()
    expected = ((obs["observation"] - seen.mean(0)) / seen.std(0)).clip(-10, 10)
    np.testing.assert_allclose(features, [*expected, *np.eye(4)[obs["task"]]], rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model")
    loaded = NFAC.load(tmp_path / "model")
    assert loaded.policy.normalization.count == 60
    np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, loaded)))


def test_images_have_their_own_normalisation():
    model = NFAC(
        "FlowCnnPolicy", Aim(observation="image"), learning_starts=8, buffer_size=50, device="cpu",
        policy_kwargs=dict(normalize_observations=True, features_extractor_kwargs=dict(features_dim=8)),
    )  # fmt: skip
    model.learn(12)
    assert model.policy.normalization is None


def test_a_policy_without_normalisation_says_so():
    assert nfac(policy_kwargs=dict(normalize_observations=False)).policy.normalization is None


@pytest.mark.slow
def test_goals_are_learned_from_in_hindsight(tmp_path):
    """The fraction of episodes that end at their goal, which random actions seldom reach."""
    env = ReachGoal()
    model = NFAC(
        "FlowMultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_rate=3e-3, learning_starts=100,
        buffer_size=5_000, batch_size=64, gamma=0.9, ent_coef="auto_0.01", seed=0, device="cpu",
        policy_kwargs=dict(net_arch=[32, 32], normalize_observations=True),
    )  # fmt: skip
    model.learn(1_200)
    model.save(tmp_path / "model")
    loaded = NFAC.load(tmp_path / "model", env=env)
    reached = []
    for episode in range(20):
        obs, _ = env.reset(seed=episode)
        for _ in range(10):
            action, _ = loaded.predict(obs, deterministic=True)
            obs, reward, *_ = env.step(action)
        reached.append(reward == 0)
    assert np.mean(reached) > 0.9


def test_sac_normalises_observations_too_and_sb3s_own_says_that_it_cannot():
    arguments = dict(learning_starts=20, policy_kwargs=dict(net_arch=[8], normalize_observations=True), device="cpu")
    model = SAC("FlowPolicy", Aim(), **arguments)
    model.learn(60)
    assert model.update_form == ("C" if HAS_KERNELS else "torch") and model.policy.normalization.count == 60
    with pytest.raises(ValueError, match=r"flowrl\.algorithms"):
        PlainSAC("FlowPolicy", Aim(), **arguments).learn(60)


class Broken(Aim):
    """Its tenth reward, or observation, is not a number."""

    def __init__(self, what):
        super().__init__()
        self.what, self.steps = what, 0

    def step(self, action):
        obs, reward, *rest = super().step(action)
        self.steps += 1
        if self.steps == 10:
            obs, reward = (obs, np.nan) if self.what == "reward" else (np.full_like(obs, np.nan), reward)
        return obs, reward, *rest


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_is_not_a_number_is_said_and_enters_nothing(what):
    model = nfac(Broken(what))
    with pytest.raises(ValueError, match=f"(?i){what} is (nan|NaN)"):
        model.learn(100)
    assert model.replay_buffer.pos == 9 and np.isfinite(model.reward_scale)


class Steady(Aim):
    """Reward 1 in every step of an episode that does not end."""

    def __init__(self):
        super().__init__(horizon=10_000, reward=lambda action, state: 1.0)


@pytest.mark.parametrize("new_environment", [False, True])
def test_episodes_in_hand_end_where_the_environment_is_reset(new_environment):
    model = nfac(Steady(), gamma=1.0, learning_starts=1_000, noise_hold=0.0)
    for steps in (20, 30, 10):
        model.learn(steps, reset_num_timesteps=not new_environment)
        assert model.return_scale.running == [steps]
        held = model.held_noise
        if new_environment:
            model.set_env(Steady())
    assert model.return_scale.statistics[3] == 30
    model.learn(5, reset_num_timesteps=new_environment)
    assert (model.return_scale.running == [15]) == (not new_environment)
    assert (model.held_noise is held) == (not new_environment)


def test_risk_and_discount_can_be_set_by_hand():
    model = nfac(Steady(), critic="flow")
    updates, neutral = model.choose_update(), model.distortion
    model.risk, model.gamma = "cvar:0.1", 0.5
    assert model.distortion is find_distortion("cvar:0.1") is not neutral
    assert updates is None or model.choose_update() is not updates, "an update in C is made for one measure"
    model.learn(2)
    assert model.return_scale.running == [1.5]


@pytest.mark.parametrize("options", [dict(foreach=True), dict(foreach=False), dict(differentiable=True)], ids=str)
def test_another_form_of_the_optimiser_is_the_users_choice(options):
    (name, value), *_ = options.items()
    model = nfac(policy_kwargs=dict(optimizer_kwargs=options))
    for module in (model.actor, model.critic):
        assert module.optimizer.defaults[name] is value and not module.optimizer.defaults["fused"]
    assert nfac().actor.optimizer.defaults["fused"]


@pytest.mark.parametrize(("critic", "most"), [("categorical", 0), ("scalar", 0), ("quantile", 24), ("flow", 31)])
def test_atoms_are_dropped_where_they_weigh_the_same_and_one_is_left(critic, most):
    assert nfac(critic=critic, drop_atoms=most).drop_atoms == most
    with pytest.raises(ValueError, match=f"drop_atoms must be at most {most} with a .*Head.*got {most + 1}"):
        nfac(critic=critic, drop_atoms=most + 1)


def test_noise_of_another_librarys_flow_is_not_held():
    class Foreign(nn.Module):
        def forward(self, context):
            return torch.distributions.Independent(torch.distributions.Normal(context[..., :2], 1.0), 1)

    with pytest.raises(ValueError, match="noise_hold=2.0 holds the noise that one of flowrl's recipes"):
        nfac(noise_hold=2.0, policy_kwargs=dict(flow=lambda features, context: Foreign()))


@pytest.mark.parametrize(
    "kwargs, words",
    [
        (dict(critic="flwo"), "did you mean 'flow'"),
        *((dict(policy_delay=value), "policy_delay must be a whole number of at least 1") for value in (1.5, "2", 0)),
        *((dict(drop_atoms=value), "drop_atoms must be a whole number of at least 0") for value in (-1, 0.5)),
        *((dict(noise_hold=value), "noise_hold must be a finite number") for value in ("2", -5.0, np.nan)),
        (dict(risk="cvar"), "worst quarter"),
        (dict(critic="scalar", risk="cvar:0.25"), "a scalar critic knows its mean alone"),
        (dict(noise_hold=2.0, action_noise=NormalActionNoise(np.zeros(2), np.ones(2))), "two ways of exploring"),
        (dict(target_entropy="half"), "auto_0.5"),
        (dict(policy_kwargs=dict(architecture=dict(norm="group"))), "layer, rms"),
        (dict(policy_kwargs=dict(n_critics=0)), "n_critics must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_with_the_cure(kwargs, words):
    with pytest.raises(ValueError, match=words):
        nfac(**kwargs)


def test_a_saved_model_keeps_its_critic(tmp_path):
    nfac(critic="quantile").save(tmp_path / "model")
    NFAC.load(tmp_path / "model", critic="quantile")
    with pytest.raises(ValueError, match="critic='flow', where the model in the file has 'quantile'"):
        NFAC.load(tmp_path / "model", critic="flow")


def test_its_update_runs_in_c_where_that_can_be():
    for critic in ("flow", "categorical"):
        assert nfac(critic=critic).update_form == ("C" if HAS_KERNELS else "torch")
    assert "QuantileHead" in nfac(critic="quantile").update_reason or not HAS_KERNELS
