"""flowrl's algorithms are Stable-Baselines3's to everybody else: files, callbacks, fall-backs, refusals."""

import copy
import logging

import cloudpickle
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor

import flowrl
from flowrl import algorithms
from flowrl.policies import FlowActorCriticPolicy, FlowPolicy
from tests.environments import Aim
from tests.models import Scaled, assert_same_policy, build, states

SAC = dict(learning_starts=40, batch_size=16, buffer_size=500, policy_kwargs=dict(net_arch=[16]), seed=0, device="cpu")
PPO = dict(n_steps=64, batch_size=32, n_epochs=2, policy_kwargs=dict(net_arch=[16]), seed=0, device="cpu")
SETTINGS = {"SAC": SAC, "PPO": PPO}
STEPS = {"SAC": 48, "PPO": 64}  # for some updates
COMPILED = algorithms.SAC("FlowPolicy", Aim(), **SAC).update_form  # "C", or "torch" where there is no compiler


def optimizer_states(model):
    optimizers = [model.policy.optimizer] if hasattr(model.policy, "optimizer") else [model.actor.optimizer]
    if hasattr(model, "critic"):
        optimizers += [model.critic.optimizer, model.ent_coef_optimizer]
    return [optimizer.state_dict() for optimizer in optimizers]


@pytest.mark.parametrize("algorithm", SETTINGS)
@pytest.mark.parametrize("direction", ["flowrl to SB3", "SB3 to flowrl", "flowrl to flowrl"])
def test_a_model_saved_by_one_loads_in_the_other_and_trains_on(algorithm, direction, tmp_path):
    modules = dict(flowrl=algorithms, SB3=stable_baselines3)
    source, target = (getattr(modules[name], algorithm) for name in direction.split(" to "))
    env = Aim()
    model = source("FlowPolicy", env, **SETTINGS[algorithm]).learn(STEPS[algorithm])
    model.save(tmp_path / "model")
    loaded = target.load(tmp_path / "model", env=env)
    assert type(loaded) is target
    assert_same_policy(model, loaded, env)
    for ours, theirs in zip(optimizer_states(model), optimizer_states(loaded), strict=True):
        assert ours["param_groups"][0]["params"] == theirs["param_groups"][0]["params"]
        assert ours["state"].keys() == theirs["state"].keys() != set()
        for i in ours["state"]:
            for key in ("step", "exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(ours["state"][i][key], theirs["state"][i][key], check_dtype=False)
    # Trains on as the first would: the optimisers' moments and the temperature are where they should be.
    for each in (model, loaded):
        each.set_random_seed(1)
        each.learn(STEPS[algorithm], reset_num_timesteps=True)
    assert all(torch.isfinite(parameter).all() for parameter in loaded.policy.parameters())
    if algorithm == "SAC":
        before = loaded.log_ent_coef.item()
        loaded.train(3, 16)
        assert loaded.log_ent_coef.item() != before, "the temperature that is trained is the one that is used"


def test_zeroed_and_replaced_gradients_and_data_are_put_back():
    model = algorithms.SAC("FlowPolicy", Aim(), **SAC).learn(60)
    model.actor.zero_grad(set_to_none=True)
    model.log_ent_coef.data = torch.full((1,), -1.5)
    before = [parameter.clone() for parameter in model.actor.parameters()]
    model.train(1, 16)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.actor.parameters()))
    assert model.log_ent_coef.item() == pytest.approx(-1.5, abs=0.01)
    assert model.log_ent_coef.item() != -1.5


def test_the_target_network_follows():
    model = algorithms.SAC("FlowPolicy", Aim(), **SAC, tau=1.0).learn(60)
    for parameter, target in zip(model.critic.parameters(), model.critic_target.parameters(), strict=True):
        torch.testing.assert_close(target, parameter)


def test_callbacks_see_gradients_and_hyperparameters(tmp_path):
    model = algorithms.SAC("FlowPolicy", Aim(), **SAC)
    seen = {}

    class Watch(flowrl.FlowLogger):
        def _on_training_end(self) -> None:
            super()._on_training_end()
            seen.update(self.logger.name_to_value)

    model.learn(120, callback=Watch(every=20))
    assert seen["train/grad_norm_actor"] > 0 and seen["train/grad_norm_critic"] > 0
    hyperparameters = flowrl.callbacks.hyperparameters(model)
    assert hyperparameters["batch_size"] == 16
    assert model.update_form == COMPILED, "what the library attaches keeps the update in C"


def test_learning_rate_schedules_reach_the_optimisers():
    model = algorithms.PPO("FlowPolicy", Aim(), learning_rate=lambda remaining: 0.0 * remaining, **PPO)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(64)
    assert all(torch.equal(a, b) for a, b in zip(before, model.policy.parameters()))


class DeepCritic(ContinuousCritic):
    """A critic of the user's own."""


class CustomPolicy(FlowPolicy):
    """A policy with a critic of the user's own."""

    def make_critic(self, features_extractor=None):
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return DeepCritic(**kwargs).to(self.device)


class CustomActorCritic(FlowActorCriticPolicy):
    """A policy with an evaluation of the user's own."""

    def evaluate_actions(self, obs, actions):
        return super().evaluate_actions(obs, actions)


class RunningNorm(FlattenExtractor):
    """An extractor that learns without parameters."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = torch.nn.BatchNorm1d(self.features_dim, affine=False)

    def forward(self, observations):
        return self.norm(super().forward(observations))


@pytest.mark.parametrize(
    ("algorithm", "policy", "policy_kwargs", "reason"),
    [
        ("SAC", CustomPolicy, {}, "critic is DeepCritic"),
        ("SAC", "FlowPolicy", dict(optimizer_class=torch.optim.AdamW), "optimiser is AdamW"),
        ("SAC", "FlowPolicy", dict(activation_fn=torch.nn.ELU), "not made of linear layers"),
        ("SAC", "FlowPolicy", dict(optimizer_kwargs=dict(decoupled_weight_decay=True)), "decoupled_weight_decay"),
        ("SAC", "FlowPolicy", dict(features_extractor_class=RunningNorm), "RunningNorm, which may hold state"),
        ("SAC", "FlowPolicy", dict(flow="maf"), "layers that the kernel does not know"),
        ("PPO", "FlowPolicy", dict(features_extractor_class=RunningNorm), "RunningNorm, which may hold state"),
        ("PPO", CustomActorCritic, {}, "evaluate_actions is overridden"),
        ("PPO", "MlpPolicy", {}, "not a flow policy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_c_cannot_serve_is_trained_in_torch_and_that_is_said_once(
    algorithm, policy, policy_kwargs, reason, caplog
):
    settings = SETTINGS[algorithm] | dict(policy_kwargs=dict(net_arch=[16]) | policy_kwargs)
    with caplog.at_level(logging.WARNING):
        model = getattr(algorithms, algorithm)(policy, Aim(), **settings).learn(56 if algorithm == "SAC" else 128)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("flowrl.algorithms")]
    assert model.update_form == "torch" and model._n_updates > 0
    if COMPILED == "C":
        assert len(messages) == 1 and reason in messages[0] and reason in model.update_reason


def test_an_external_flow_trains():
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e '.[dev]'")
    flow = lambda features, context: zuko.flows.NSF(features, context, transforms=1)  # noqa: E731
    model = algorithms.SAC("FlowPolicy", Aim(), **SAC | dict(policy_kwargs=dict(flow=flow, net_arch=[16])))
    before = [parameter.clone() for parameter in model.actor.parameters()]
    model.learn(60)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.actor.parameters()))


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_a_frozen_network_stays_as_it_is(algorithm, tmp_path):
    model = getattr(algorithms, algorithm)("FlowPolicy", Aim(), **SETTINGS[algorithm]).learn(64)
    frozen = model.actor.latent_pi if algorithm == "SAC" else model.policy.mlp_extractor.policy_net
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(STEPS[algorithm])
    still = {id(parameter) for parameter in frozen.parameters()}
    for name, parameter in model.policy.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) in still), name


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_a_model_whose_network_was_frozen_in_sb3_loads(algorithm, tmp_path):
    model = getattr(stable_baselines3, algorithm)("FlowPolicy", Aim(), **SETTINGS[algorithm])
    first = model.actor.latent_pi if algorithm == "SAC" else model.policy.mlp_extractor.policy_net
    for parameter in first.parameters():
        parameter.requires_grad_(False)
    model.learn(STEPS[algorithm]).save(tmp_path / "model")
    getattr(algorithms, algorithm).load(tmp_path / "model", env=Aim()).learn(STEPS[algorithm])


@pytest.mark.parametrize("algorithm", SETTINGS)
@pytest.mark.parametrize("what", ["model", "policy"])
def test_copies_train_on_by_themselves(algorithm, what):
    model = getattr(algorithms, algorithm)("FlowPolicy", Aim(), **SETTINGS[algorithm]).learn(64)
    copied = copy.deepcopy(model) if what == "model" else copy.deepcopy(model.policy)
    policy = copied.policy if what == "model" else copied
    for ours, theirs in zip(model.policy.parameters(), policy.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()
    before = [parameter.clone() for parameter in model.policy.parameters()]
    if what == "model":
        copied.learn(64)
        assert copied.update_form == COMPILED
    else:
        owner = policy.actor if algorithm == "SAC" else policy
        owner.optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in owner.parameters()).backward()
        owner.optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, model.policy.parameters())), "the original is left alone"


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_a_pickled_model_trains_on(algorithm):
    model = getattr(algorithms, algorithm)("FlowPolicy", Aim(), **SETTINGS[algorithm]).learn(64)
    copied = cloudpickle.loads(cloudpickle.dumps(model))
    assert_same_policy(model, copied, Aim())
    copied.learn(128)
    assert copied.update_form == COMPILED


def test_a_hook_that_goes_away_in_the_midst_of_a_training_step():
    model = algorithms.SAC("FlowPolicy", Aim(), **SAC).learn(60)
    seen = []
    handle = model.critic.optimizer.register_step_post_hook(lambda *_: (seen.append(1), handle.remove()))
    model.train(3, 16)
    assert seen == [1] and np.isfinite(model.logger.name_to_value["train/critic_loss"])


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_an_optimizer_put_in_place_later_is_the_one_that_steps(algorithm, caplog):
    model = getattr(algorithms, algorithm)("FlowPolicy", Aim(), **SETTINGS[algorithm]).learn(64)
    owner = model.actor if algorithm == "SAC" else model.policy
    owner.optimizer = torch.optim.SGD(owner.parameters(), lr=1e-3)
    steps = []
    owner.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    model.learn(STEPS[algorithm])
    assert steps and (COMPILED == "torch" or "optimiser is SGD" in caplog.text)


def test_how_a_model_was_updated_is_not_saved(tmp_path):
    algorithms.SAC("FlowPolicy", Aim(), **SAC).save(tmp_path / "model")
    loaded = stable_baselines3.SAC.load(tmp_path / "model")
    assert not hasattr(loaded, "update_form")


@pytest.mark.filterwarnings("ignore:.*")
def test_a_policy_wrapped_by_a_compiler_trains():
    small = dict(n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=dict(net_arch=[16], flow="gaussian"))
    model = algorithms.PPO("FlowPolicy", Aim(), **PPO | small)
    model.policy = torch.compile(model.policy, backend="eager")
    model.learn(8)
    assert model._n_updates > 0 and model.update_form == "torch"


def test_bf16_is_refused():
    with pytest.raises(TypeError, match="precision"):
        algorithms.SAC("FlowPolicy", Aim(), **SAC, precision="bf16")


def test_from_gaussian_goes_on_in_the_same_algorithm():
    gaussian = algorithms.SAC("MlpPolicy", Aim(), **SAC).learn(60)
    warm = flowrl.from_gaussian(gaussian)
    obs = states(Aim())
    torch.testing.assert_close(
        torch.from_numpy(warm.predict(obs, deterministic=True)[0]),
        torch.from_numpy(gaussian.predict(obs, deterministic=True)[0]),
    )
    warm.learn(30, reset_num_timesteps=False)
    assert build("SAC").policy_class is FlowPolicy, "SB3's own knows the policy as before"


def test_an_extractor_that_actor_and_critic_share_is_trained_as_sb3_trains_it():
    """By the actor's loss alone, in which the critics' parameters are left out."""
    found = []
    for module in (stable_baselines3, algorithms):
        policy_kwargs = dict(net_arch=[16], features_extractor_class=Scaled, share_features_extractor=True)
        model = module.SAC("FlowPolicy", Aim(), **SAC | dict(policy_kwargs=policy_kwargs))
        model.set_random_seed(0)
        found.append(model.learn(60).actor.features_extractor.scale)
    assert not torch.equal(found[1], torch.ones(3))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [("SAC", "FlowPolicy"), ("SAC", "MlpPolicy"), ("NFAC", "FlowPolicy"), ("BehaviourCloning", "FlowPolicy")],
)
def test_discrete_actions_are_refused_with_a_cure(algorithm, policy):
    with pytest.raises(ValueError, match=r"continuous action space .*got Discrete\(2\); for discrete actions take"):
        getattr(algorithms, algorithm)(policy, "CartPole-v1")
