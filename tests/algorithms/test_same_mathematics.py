"""flowrl's algorithms compute what Stable-Baselines3's do: the same losses, gradients, weights and random numbers."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from flowrl import algorithms
from flowrl.algorithms.sac import update
from tests.environments import Aim, ReachGoal
from tests.models import HAS_KERNELS, Precise, perturb

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
SAC = dict(learning_starts=20, batch_size=32, buffer_size=500, learning_rate=1e-3, gradient_steps=2)
SAC_STEPS = 28  # of two environments: eight updates
PPO = dict(n_steps=16, batch_size=16, n_epochs=2, learning_rate=1e-3, ent_coef=0.01)
PPO_STEPS = 64  # of two environments: two rollouts, eight updates


@pytest.fixture(params=TOLERANCE, ids=str)
def tolerance(request):
    """Of the precision that is the default meanwhile."""
    torch.set_default_dtype(request.param)
    yield TOLERANCE[request.param]
    torch.set_default_dtype(torch.float32)


in_double_precision = pytest.mark.parametrize("tolerance", [torch.float64], indirect=True)


class SinglePrecision(gym.ActionWrapper):
    """Takes the actions of a policy in double precision."""

    def action(self, action: np.ndarray) -> np.ndarray:
        return action.astype(np.float32)


def pair(algorithm: str, settings: dict[str, Any], policy: str = "FlowPolicy", env: Any = None, **policy_kwargs: Any):
    """Stable-Baselines3's model and flowrl's, alike, after the same perturbation."""
    models = []
    for module in (stable_baselines3, algorithms):
        kwargs = dict(net_arch=[16, 16], features_extractor_class=Precise) | policy_kwargs
        environment = env() if env else make_vec_env(lambda: SinglePrecision(Aim(horizon=6)), 2, seed=0)
        cls = getattr(module, algorithm)
        model = cls(policy, environment, policy_kwargs=kwargs, **settings, seed=0, device="cpu")
        perturb(model.policy.actor if algorithm == "SAC" else model.policy, 0.05)
        models.append(model)
    return models


def record_gradients(model: Any, form: str) -> list[torch.Tensor]:
    """What each optimiser's step of SAC finds, in order; a hook would keep C, which is all steps at once, away."""
    found: list[torch.Tensor] = []

    def record(owner: Any) -> None:
        found.append(torch.cat([p.grad.flatten() for p in owner.parameters() if p.grad is not None]).clone())

    owners = [model.critic, model.actor] if hasattr(model, "critic") else [model.policy]
    if form != "C":
        for owner in owners:
            owner.optimizer.register_step_pre_hook(lambda *_, owner=owner: record(owner))
        return found
    choose = model.choose_update

    def choose_and_record() -> Any:
        update = choose()

        def update_and_record(*args: Any) -> Any:
            losses = update(*args)
            for owner in owners:
                record(owner)
            return losses

        return update_and_record

    model.choose_update = choose_and_record
    return found


def assert_same_training(models: list[Any], steps: int, tolerance: float, form: str = "torch") -> None:
    """The first update to the tolerance; in double precision all later ones too, with what Adam makes of rounding."""
    single = torch.get_default_dtype() == torch.float32
    if single and isinstance(models[0], stable_baselines3.SAC):
        steps = models[0].learning_starts + models[0].n_envs
    if form == "torch":
        models[1].choose_update = lambda: None
        models[1].update_form = "torch"
    gradients = [record_gradients(models[0], "SB3"), record_gradients(models[1], form)]
    logs: list[dict[str, Any]] = []
    for model in models:
        model.set_random_seed(0)
        model.learn(steps)
        logs.append({name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")})
    assert models[1].update_form == form, models[1].update_reason
    if hasattr(models[0], "critic") or form == "torch":  # PPO in C: a whole epoch is one call
        assert len(gradients[0]) == len(gradients[1]) > 0, "as many updates"
        for i, (theirs, ours) in enumerate(zip(*gradients, strict=True)):
            if i < 2:  # the first update: of the critic and of the actor, or of both at once
                torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
            elif not single:
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert logs[0].keys() == logs[1].keys() and logs[0]
    if single:
        return
    for (name, theirs), ours in zip(models[0].policy.state_dict().items(), models[1].policy.state_dict().values()):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6, msg=name)
    for name, value in logs[0].items():
        assert logs[1][name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


no_compiler = pytest.mark.skipif(not HAS_KERNELS, reason="no C compiler: install gcc")
FORMS = [pytest.param("C", marks=no_compiler), "torch"]
C_IF_THERE = "C" if HAS_KERNELS else "torch"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flow", ["triangular", "affine", "nsf", "realnvp"])
def test_sac_with_a_flow(flow, form, tolerance):
    assert_same_training(pair("SAC", SAC, flow=flow), SAC_STEPS, tolerance, form)


@in_double_precision
@pytest.mark.parametrize("flow", ["iaf", "planar"])
def test_sac_with_a_flow_that_has_no_kernel(flow, tolerance):
    models = pair("SAC", SAC, flow=flow)
    assert_same_training(models, SAC_STEPS, tolerance)


@in_double_precision
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "settings",
    [
        dict(ent_coef=0.1),
        dict(ent_coef="auto_0.5", target_entropy=-3.0, gamma=0.5),
        dict(n_steps=3),
        dict(target_update_interval=2, tau=0.5),
        dict(batch_size=77),
        dict(n_critics=3, activation_fn=torch.nn.Tanh),
        dict(n_critics=1),
        dict(net_arch=dict(pi=[8], qf=[24, 12, 8])),
        dict(optimizer_kwargs=dict(weight_decay=0.01, betas=(0.8, 0.9), eps=1e-5)),
        pytest.param(dict(learning_rate=lambda remaining: 1e-3 * remaining), id="schedule"),
    ],
    ids=str,
)
def test_sac_in_every_setting(settings, form, tolerance):
    assert_same_training(pair_in("SAC", SAC, settings), SAC_STEPS, tolerance, form)


@in_double_precision
@pytest.mark.parametrize(
    "settings",
    [dict(policy="MlpPolicy"), dict(policy="MlpPolicy", use_sde=True), dict(net_arch=dict(pi=[], qf=[16]))],
    ids=str,
)
def test_sac_with_an_actor_that_is_no_stack(settings, tolerance):
    assert_same_training(pair_in("SAC", SAC, settings), SAC_STEPS, tolerance)


OF_POLICY = ("n_critics", "activation_fn", "net_arch", "optimizer_kwargs")


def pair_in(algorithm: str, base: dict[str, Any], settings: dict[str, Any]) -> list[Any]:
    """The pair in other settings, some of which are the policy's."""
    of_policy = {key: value for key, value in settings.items() if key in OF_POLICY}
    of_model = {key: value for key, value in settings.items() if key not in (*OF_POLICY, "policy")}
    return pair(algorithm, base | of_model, settings.get("policy", "FlowPolicy"), **of_policy)


def test_sac_with_normalisation():
    models = pair("SAC", SAC, env=lambda: VecNormalize(make_vec_env(Aim, 2, seed=0)))
    assert_same_training(models, SAC_STEPS, 1e-4, form=C_IF_THERE)


def test_sac_with_hindsight_replay():
    settings = SAC | dict(replay_buffer_class=HerReplayBuffer)
    kwargs = dict(features_extractor_class=stable_baselines3.common.torch_layers.CombinedExtractor)
    models = pair("SAC", settings, "FlowMultiInputPolicy", lambda: make_vec_env(ReachGoal, seed=0), **kwargs)
    assert_same_training(models, SAC_STEPS, 1e-4, form="torch")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flow", ["triangular", "nsf"])
def test_ppo_with_a_flow(flow, form, tolerance):
    assert_same_training(pair("PPO", PPO, flow=flow), PPO_STEPS, tolerance, form)


@in_double_precision
@pytest.mark.parametrize(
    "settings",
    [
        dict(clip_range_vf=0.05, clip_range=0.05),
        dict(target_kl=1e-4),
        dict(normalize_advantage=False, max_grad_norm=1e-2),
        dict(batch_size=13),
        dict(activation_fn=torch.nn.ReLU),
        dict(squash_output=False),
        dict(share_features_extractor=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_ppo_in_every_setting(settings, form, tolerance):
    of_policy = {key: value for key, value in settings.items() if key not in ("batch_size",)}
    of_model = {key: of_policy.pop(key) for key in list(of_policy) if key in PPO_ARGUMENTS}
    of_model |= {key: settings[key] for key in ("batch_size",) if key in settings}
    assert_same_training(pair("PPO", PPO | of_model, **of_policy), PPO_STEPS, tolerance, form)


PPO_ARGUMENTS = ("clip_range_vf", "clip_range", "target_kl", "normalize_advantage", "max_grad_norm")


def test_ppo_without_entropy_bonus_draws_the_same_random_numbers_and_logs_an_estimate():
    models = pair("PPO", PPO | dict(ent_coef=0.0))
    for model in models:
        model.set_random_seed(0)
        model.learn(PPO_STEPS)
    for theirs, ours in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    losses = [model.logger.name_to_value["train/entropy_loss"] for model in models]
    assert losses[1] == pytest.approx(losses[0], abs=0.5)


def test_ppo_with_a_gaussian_and_with_discrete_actions():
    """What is no flow goes by torch's form, whatever its actions are."""
    assert_same_training(pair("PPO", PPO, "MlpPolicy"), PPO_STEPS, 1e-4)
    models = [
        module.PPO("MlpPolicy", "CartPole-v1", **PPO, seed=0, device="cpu")
        for module in (stable_baselines3, algorithms)
    ]
    assert_same_training(models, PPO_STEPS, 1e-4)


@pytest.mark.parametrize("flow", ["triangular", "maf"])
def test_the_losses_of_torch_compile_without_a_break(flow):
    """As `torch.compile` and CUDA graphs need them: one graph, no branch on a tensor's value."""
    kwargs = dict(net_arch=[8], flow=flow, flow_kwargs=dict(layers=1))
    model = algorithms.SAC("FlowPolicy", Aim(), **SAC, policy_kwargs=kwargs, seed=0, device="cpu")
    obs, actions = torch.randn(5, 3), torch.rand(5, 2)
    batch = ReplayBufferSamples(obs, actions, torch.randn(5, 3), torch.zeros(5, 1), torch.randn(5, 1))

    def losses():
        found, log_prob = model.actor.action_log_prob(obs)
        next_q, next_log_prob = update.next_value(model.actor, model.critic_target, batch.next_observations)
        target = update.td_target(batch, next_q, next_log_prob, torch.tensor(0.1), 0.99)
        return (
            update.temperature_loss(model.log_ent_coef, log_prob, -2.0),
            update.critic_loss(model.critic(obs, actions), target),
            update.actor_loss(model.critic, obs, found, log_prob, torch.tensor(0.1)),
        )

    torch.manual_seed(0)
    expected = losses()
    torch.manual_seed(0)
    found = torch.compile(losses, backend="eager", fullgraph=True)()
    torch.testing.assert_close(found, expected)
