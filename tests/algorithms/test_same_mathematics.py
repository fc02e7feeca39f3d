"""flowrl's algorithms compute what Stable-Baselines3's do: the same losses, gradients, weights and random numbers."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from flowrl import algorithms
from flowrl.kernels import library, networks
from tests.environments import Aim, ReachGoal
from tests.models import Precise, perturb

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
SAC = dict(learning_starts=40, batch_size=32, buffer_size=500, learning_rate=1e-3, gradient_steps=2)
PPO = dict(n_steps=64, batch_size=32, n_epochs=2, learning_rate=1e-3, ent_coef=0.01)


@pytest.fixture(params=TOLERANCE, ids=str)
def tolerance(request):
    """Of the precision that is the default meanwhile."""
    torch.set_default_dtype(request.param)
    yield TOLERANCE[request.param]
    torch.set_default_dtype(torch.float32)


class SinglePrecision(gym.ActionWrapper):
    """Takes the actions of a policy in double precision."""

    def action(self, action: np.ndarray) -> np.ndarray:
        return action.astype(np.float32)


@pytest.fixture(autouse=True)
def precise_is_stateless(monkeypatch):
    monkeypatch.setattr(networks, "STATELESS_EXTRACTORS", networks.STATELESS_EXTRACTORS | {Precise})


def pair(algorithm: str, settings: dict[str, Any], policy: str = "FlowPolicy", env: Any = None, **policy_kwargs: Any):
    """Stable-Baselines3's model and flowrl's, alike, after the same perturbation."""
    models = []
    for module in (stable_baselines3, algorithms):
        kwargs = dict(net_arch=[16, 16], features_extractor_class=Precise) | policy_kwargs
        environment = env() if env else make_vec_env(lambda: SinglePrecision(Aim()), 2, seed=0)
        cls = getattr(module, algorithm)
        model = cls(policy, environment, policy_kwargs=kwargs, **settings, seed=0, device="cpu")
        perturb(model.policy.actor if algorithm == "SAC" else model.policy, 0.05)
        models.append(model)
    assert models[1]._fast is not None, "the fast path is what is tested"
    return models


def record_gradients(model: Any, by_kernel: bool) -> list[torch.Tensor]:
    """What each optimiser's step finds, in order; a hook would keep the kernel, which is all steps at once, away."""
    found: list[torch.Tensor] = []

    def record(owner: Any) -> None:
        found.append(torch.cat([p.grad.flatten() for p in owner.parameters() if p.grad is not None]).clone())

    if by_kernel:
        kernel, update = model._fast.kernel, model._fast.kernel.update

        def update_and_record(*args: Any) -> Any:
            losses = update(*args)
            record(model.critic)
            record(model.actor)
            return losses

        kernel.update = update_and_record
        return found
    owners = [model.policy] if hasattr(model.policy, "optimizer") else [model.actor, model.critic]
    for owner in owners:
        owner.optimizer.register_step_pre_hook(lambda *_, owner=owner: record(owner))
    return found


def assert_same_training(models: list[Any], steps: int, tolerance: float, by_kernel: bool = False) -> None:
    """The first update to the tolerance; in double precision all later ones too, with what Adam makes of rounding."""
    single = torch.get_default_dtype() == torch.float32
    if single and isinstance(models[0], stable_baselines3.SAC):
        steps = models[0].learning_starts + models[0].n_envs
    gradients = [record_gradients(models[0], False), record_gradients(models[1], by_kernel)]
    logs: list[dict[str, Any]] = []
    for model in models:
        model.set_random_seed(0)
        model.learn(steps)
        logs.append({name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")})
    assert len(gradients[0]) == len(gradients[1]) > 0, "as many updates, all on the path that is tested"
    for i, (plain, fast) in enumerate(zip(*gradients, strict=True)):
        if i < 2:  # the first update: of the critic and of the actor, or of both at once
            torch.testing.assert_close(fast, plain, atol=tolerance, rtol=tolerance)
        elif not single:
            torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-4)
    if single:
        return
    for (name, plain), fast in zip(models[0].policy.state_dict().items(), models[1].policy.state_dict().values()):
        torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-6, msg=name)
    assert logs[0].keys() == logs[1].keys() and logs[0]
    for name, plain in logs[0].items():
        assert logs[1][name] == pytest.approx(plain, rel=1e-6, abs=1e-6), name


KERNEL = pytest.param(
    True,
    id="kernel",
    marks=pytest.mark.skipif(library.load(torch.float64) is None, reason="no C compiler: install gcc"),
)
OPERATIONS = pytest.param(False, id="operations")


@pytest.mark.parametrize("by_kernel", [KERNEL, OPERATIONS])
@pytest.mark.parametrize("flow", ["triangular", "affine", "nsf", "realnvp"])
def test_sac_with_a_flow(flow, by_kernel, tolerance):
    assert_same_training(pair("SAC", SAC, flow=flow), 80, tolerance, by_kernel)


@pytest.mark.parametrize("flow", ["iaf", "planar"])
def test_sac_with_a_flow_that_has_no_kernel(flow, tolerance):
    models = pair("SAC", SAC, flow=flow)
    assert models[1]._fast.kernel is None
    assert_same_training(models, 80, tolerance)


@pytest.mark.parametrize("by_kernel", [KERNEL, OPERATIONS])
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
def test_sac_in_every_setting(settings, by_kernel, tolerance):
    assert_same_training(pair_in("SAC", SAC, settings), 80, tolerance, by_kernel)


@pytest.mark.parametrize(
    "settings",
    [dict(policy="MlpPolicy"), dict(policy="MlpPolicy", use_sde=True), dict(net_arch=dict(pi=[], qf=[16]))],
    ids=str,
)
def test_sac_with_an_actor_that_is_no_stack(settings, tolerance):
    assert_same_training(pair_in("SAC", SAC, settings), 80, tolerance)


OF_POLICY = ("n_critics", "activation_fn", "net_arch", "optimizer_kwargs")


def pair_in(algorithm: str, base: dict[str, Any], settings: dict[str, Any]) -> list[Any]:
    """The pair in other settings, some of which are the policy's."""
    of_policy = {key: value for key, value in settings.items() if key in OF_POLICY}
    of_model = {key: value for key, value in settings.items() if key not in (*OF_POLICY, "policy")}
    return pair(algorithm, base | of_model, settings.get("policy", "FlowPolicy"), **of_policy)


def test_sac_with_normalisation():
    models = pair("SAC", SAC, env=lambda: VecNormalize(make_vec_env(Aim, 2, seed=0)))
    assert_same_training(models, 80, 1e-4, by_kernel=models[1]._fast.kernel is not None)


def test_sac_with_hindsight_replay():
    settings = SAC | dict(replay_buffer_class=HerReplayBuffer)
    kwargs = dict(features_extractor_class=stable_baselines3.common.torch_layers.CombinedExtractor)
    models = pair("SAC", settings, "FlowMultiInputPolicy", lambda: make_vec_env(ReachGoal, seed=0), **kwargs)
    assert_same_training(models, 80, 1e-4, by_kernel=models[1]._fast.kernel is not None)


@pytest.mark.parametrize("flow", ["triangular", "nsf", "maf"])
def test_ppo_with_a_flow(flow, tolerance):
    assert_same_training(pair("PPO", PPO, flow=flow), 256, tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        dict(clip_range_vf=0.05, clip_range=0.05),
        dict(target_kl=1e-4),
        dict(normalize_advantage=False, max_grad_norm=1e-2),
        dict(batch_size=48),
        dict(activation_fn=torch.nn.ReLU),
        dict(squash_output=False),
        dict(share_features_extractor=False),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_ppo_in_every_setting(settings, tolerance):
    of_policy = {key: value for key, value in settings.items() if key not in ("batch_size",)}
    of_model = {key: of_policy.pop(key) for key in list(of_policy) if key in PPO_ARGUMENTS}
    of_model |= {key: settings[key] for key in ("batch_size",) if key in settings}
    assert_same_training(pair("PPO", PPO | of_model, **of_policy), 256, tolerance)


PPO_ARGUMENTS = ("clip_range_vf", "clip_range", "target_kl", "normalize_advantage", "max_grad_norm")


def test_ppo_without_entropy_bonus_learns_the_same_and_logs_an_estimate():
    """No entropy is sampled, so that the random numbers are others: one rollout's update is compared."""
    models = pair("PPO", PPO | dict(ent_coef=0.0, n_epochs=1))
    assert_same_policies_after(models, 128)
    losses = [model.logger.name_to_value["train/entropy_loss"] for model in models]
    assert losses[1] == pytest.approx(losses[0], abs=0.5)


def assert_same_policies_after(models: list[Any], steps: int) -> None:
    for model in models:
        model.set_random_seed(0)
        model.learn(steps)
    for plain, fast in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


def test_bf16_follows_float32_at_the_distance_of_its_rounding():
    losses = []
    for precision in ("float32", "bf16"):
        model = algorithms.SAC("FlowPolicy", Aim(), **SAC, precision=precision, seed=0, device="cpu")
        model.learn(60)
        losses.append(model.logger.name_to_value["train/critic_loss"])
        assert all(parameter.dtype == torch.float32 for parameter in model.policy.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert np.isfinite(losses).all()
