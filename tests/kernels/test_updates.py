"""An update in C is that in torch: losses, gradients, parameters, moments, targets, random numbers."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from torch import nn

import flowrl
from flowrl import algorithms
from flowrl.algorithms import update_form
from flowrl.critics.heads import CategoricalHead
from flowrl.flows import recipes
from flowrl.kernels import library
from flowrl.networks.batch_renorm import WARM_UP, BatchRenorm
from flowrl.policies.action_distribution import FlowDistribution
from tests.models import KERNEL_CASES, KERNEL_FLOWS, Precise, perturb

# Every flow at every dimension in a batch, and every flow in a batch of one row.
SIZED_CASES = [(flow, d, 130) for flow, d in KERNEL_CASES] + [(flow, 2, 1) for flow in KERNEL_FLOWS]

pytestmark = pytest.mark.skipif(library.load(torch.float64) is None, reason="no C compiler: install gcc")


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Spaces(Env):
    """Nothing but spaces."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))

    def __init__(self, d: int):
        self.action_space = spaces.Box(-1.0, 1.0, (d,))


def make(algorithm: str, d: int, flow: str = "triangular", policy: dict[str, Any] | None = None, **settings) -> Any:
    """A model that has seen a few transitions."""
    policy_kwargs = dict(net_arch=[24, 16], features_extractor_class=Precise, flow=flow)
    policy_kwargs |= dict(flow_kwargs=KERNEL_FLOWS.get(flow, {})) | (policy or {})
    off_policy = algorithm != "PPO"
    own = dict(buffer_size=200) if off_policy else dict(n_steps=150, batch_size=70, n_epochs=2, ent_coef=0.01)
    settings = own | dict(learning_rate=1e-2, seed=0, device="cpu", policy_kwargs=policy_kwargs) | settings
    model = getattr(algorithms, algorithm)("FlowPolicy", Spaces(d), **settings)
    perturb(model.policy, 0.1)
    model.set_logger(Logger(None, []))
    random = np.random.default_rng(0)
    for _ in range(150):
        obs, next_obs = random.uniform(-1, 1, (2, 1, 3))
        action, reward = random.uniform(-1, 1, (1, d)), random.normal(size=1)
        if off_policy:
            model.replay_buffer.add(obs, next_obs, action, reward, random.random(1) < 0.2, [{}])
        else:
            value, log_prob = torch.tensor(random.normal(size=(2, 1)))
            model.rollout_buffer.add(obs, action, reward, np.zeros(1), value, 0.1 * log_prob - d)
    if algorithm == "PPO":
        model.rollout_buffer.compute_returns_and_advantage(torch.zeros(1), np.zeros(1))
        for name in ("advantages", "returns", "values", "log_probs"):  # lest float32 round, in torch alone
            setattr(model.rollout_buffer, name, getattr(model.rollout_buffer, name).astype(np.float64))
    return model


def trained(model: Any, form: str, *sizes: int) -> list[torch.Tensor]:
    """Whatever training changes or logs."""
    with pytest.MonkeyPatch.context() as patch:
        if form == "torch":
            patch.setattr(update_form, "compiled_update", lambda _: (None, "as the test wants"))
        np.random.seed(0)
        torch.manual_seed(0)
        for size in sizes or (None,):
            model.train(1, size) if size else model.train()
    assert model.update_form == form, model.update_reason
    optimizers = [model.policy.optimizer] if hasattr(model.policy, "optimizer") else []
    optimizers = optimizers or [model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer]
    moved = [(each, parameter) for each in optimizers if each for parameter in each.param_groups[0]["params"]]
    moments = [value for each, parameter in moved for value in each.state[parameter].values()]
    parameters, buffers = [*model.policy.parameters()], [*model.policy.buffers()]
    gradients = [p.grad for p in parameters if p.grad is not None]
    logs = [
        torch.tensor(v) for k, v in model.logger.name_to_value.items() if k.startswith("train/") and "fraction" not in k
    ]
    return [tensor.clone().double() for tensor in (*parameters, *buffers, *gradients, *moments, *logs, torch.rand(()))]


def assert_same(models: list[Any], *sizes: int, tolerance: float = 1e-9) -> None:
    theirs, ours = (trained(model, form, *sizes) for model, form in zip(models, ("torch", "C")))
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("flow", "d", "size"), SIZED_CASES)
def test_sac(flow, d, size):
    assert_same([make("SAC", d, flow) for _ in range(2)], size)


@pytest.mark.parametrize(("flow", "d", "size"), SIZED_CASES)
def test_nfq(flow, d, size):
    assert_same([make("NFQ", d, flow, ent_coef="auto") for _ in range(2)], size)


@pytest.mark.parametrize(
    "settings",
    [
        dict(ent_coef=0.3),
        dict(ent_coef="linear_0.5_0.1"),
        dict(max_grad_norm=None),
        dict(max_grad_norm=1e-3),
        dict(n_steps=3, cql_weight=0.5),
        dict(importance_floor=1.0),
        dict(importance_floor=0.3, ent_coef=0.3),
        dict(policy=dict(n_critics=1, net_arch=dict(pi=[8], qf=[24, 12, 8]), activation_fn=nn.Tanh)),
    ],
    ids=str,
)
def test_nfq_in_every_setting(settings):
    assert_same([make("NFQ", 2, "nsf", **settings) for _ in range(2)], 32, 32, tolerance=1e-6)


CRITICS = {
    "flow": dict(critic="flow", critic_kwargs=dict(n_bins=6, n_atoms=7)),
    "flow of fixed bins": dict(critic="flow", critic_kwargs=dict(n_bins=6, n_atoms=7, grid="fixed")),
    "categorical": dict(critic="categorical", critic_kwargs=dict(n_bins=9)),
    "categorical with norms": dict(critic="categorical", critic_kwargs=dict(n_bins=9), architecture=dict(norm="layer")),
}


NFAC_CASES = [("flow", *case) for case in SIZED_CASES]
NFAC_CASES += [(critic, "nsf", d, size) for critic in CRITICS if critic != "flow" for d in (1, 3) for size in (1, 130)]


@pytest.mark.parametrize(("critic", "flow", "d", "size"), NFAC_CASES)
def test_nfac(critic, flow, d, size):
    """Every flow with one critic, and every critic with one flow: neither knows of the other's kind."""
    assert_same([make("NFAC", d, flow, CRITICS[critic]) for _ in range(2)], size, tolerance=1e-8)


@pytest.mark.parametrize(
    "settings",
    [
        dict(ent_coef=0.3),
        dict(policy_delay=2, actor_pessimism=False),
        dict(n_steps=3, risk="cvar:0.3"),
        dict(policy=dict(n_critics=3, net_arch=dict(pi=[8], qf=[24, 12, 8]), activation_fn=nn.Tanh)),
        dict(policy=dict(n_critics=1, critic_kwargs=dict(noise=4.0, n_atoms=40))),
        dict(policy=dict(critic="categorical", critic_kwargs=dict(bound=0.3))),
        dict(policy=dict(critic="scalar")),
        dict(policy=dict(architecture=dict(norm="layer"))),
        dict(policy=dict(architecture=dict(norm="layer"), n_critics=3, critic="categorical", activation_fn=nn.Tanh)),
        dict(policy=dict(architecture=dict(norm="layer"), critic="scalar", net_arch=dict(pi=[70], qf=[80, 12]))),
        dict(policy=dict(architecture=dict(norm="layer"), actor_architecture={})),
        dict(policy=dict(actor_architecture=dict(norm="layer"))),
        dict(policy=dict(architecture=dict(norm="layer", unit_norm=True))),
        dict(policy=dict(critic="scalar", n_critics=3), actor_pessimism=False),
    ],
    ids=str,
)
def test_nfac_in_every_setting(settings):
    assert_same([make("NFAC", 2, "nsf", **settings) for _ in range(2)], 32, 32, tolerance=1e-6)


BATCH = dict(norm="batch")


@pytest.mark.parametrize("updates", [0, WARM_UP - 1], ids=["warm-up", "corrected"])
@pytest.mark.parametrize(
    "settings",
    [
        dict(policy=dict(architecture=BATCH)),
        dict(policy=dict(architecture=BATCH, critic="scalar", activation_fn=nn.Tanh, n_critics=3)),
        dict(policy=dict(architecture=BATCH | dict(unit_norm=True), critic="categorical"), policy_delay=2),
        dict(policy=dict(architecture=BATCH, critic="categorical", net_arch=dict(pi=[70], qf=[80, 12])), n_steps=3),
        dict(policy=dict(architecture=BATCH, actor_architecture=dict(norm="layer")), actor_pessimism=False),
        dict(policy=dict(architecture={}, actor_architecture=BATCH), policy_delay=2),
    ],
    ids=str,
)
def test_nfac_with_batch_norms(settings, updates):
    """The running moments, which begin anywhere here, follow as in torch, and after a while correct the batch's."""
    models = [make("NFAC", 2, "nsf", **settings) for _ in range(2)]
    for model in models:
        for norm in (part for part in model.policy.modules() if isinstance(part, BatchRenorm)):
            norm.updates.fill_(updates), norm.mean.fill_(0.4), norm.variance.fill_(0.03)
    assert_same(models, 70, 33, 1, tolerance=1e-6)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_learning_with_norms_goes_by_c(norm):
    """Where a rollout has put the networks into evaluation mode."""
    policy_kwargs = dict(architecture=dict(norm=norm, unit_norm=True), net_arch=[8], features_extractor_class=Precise)
    model = algorithms.NFAC("FlowPolicy", "Pendulum-v1", learning_starts=10, policy_kwargs=policy_kwargs).learn(30)
    assert model.update_form == "C"
    assert norm == "layer" or model.actor.latent_pi[1].updates == model._n_updates


def test_moments_of_another_size_or_type_are_torchs():
    model = make("NFAC", 2, policy=dict(architecture=BATCH))
    norm = model.critic.networks[0][1]
    kept = norm.mean
    for wrong in (kept.float(), kept[:1]):
        norm.mean = wrong
        model.choose_update()
        assert model.update_form == "torch" and "moments" in model.update_reason
    norm.mean = kept.clone()
    model.choose_update()
    assert model.update_form == "C"


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_batch_norms_put_into_critics_are_torchs(norm):
    """Which pass they need is the architecture's to say."""
    model = make("NFAC", 2, policy=dict(architecture=dict(norm=norm), net_arch=[24]))
    for critic in (model.critic, model.critic_target):
        for network in critic.networks:
            if norm == "none":
                network.insert(1, BatchRenorm(24))
            else:
                del network[1]
    model.choose_update()
    assert model.update_form == "torch" and "batch norms" in model.update_reason


@torch.no_grad()
@pytest.mark.parametrize("part", ["actor", "critic"])
def test_moments_stay_finite(part):
    model = make("NFAC", 2, policy=dict(architecture=BATCH))
    network = model.actor.latent_pi if part == "actor" else model.critic.networks[0]
    network[0].bias[0] = float("nan")
    with torch.enable_grad(), pytest.raises(flowrl.Diverged):
        model.train(1, 32)
    assert model.update_form == "C"
    assert all(buffer.isfinite().all() for buffer in model.policy.buffers())


NORMED_PARTS = dict(
    SAC=lambda model: [critic.qf0 for critic in (model.critic, model.critic_target)],
    NFQ=lambda model: [model.actor.latent_pi],
    PPO=lambda model: [model.policy.mlp_extractor.value_net],
)


@pytest.mark.parametrize("algorithm", NORMED_PARTS)
def test_batch_norms_are_of_nfac_alone(algorithm):
    model = make(algorithm, 2, policy=dict(n_critics=1, net_arch=[24]) if algorithm == "SAC" else dict(net_arch=[24]))
    for network in NORMED_PARTS[algorithm](model):
        network.insert(1, BatchRenorm(24))
    model.choose_update()
    assert model.update_form == "torch" and "NFAC" in model.update_reason


@pytest.mark.parametrize(("flow", "d"), KERNEL_CASES)
def test_ppo(flow, d):
    assert_same([make("PPO", d, flow, n_epochs=1, batch_size=150) for _ in range(2)], tolerance=1e-8)


@pytest.mark.parametrize("algorithm", ["SAC", "NFAC", "NFQ", "PPO"])
def test_with_gains(algorithm):
    settings, sizes = (dict(n_epochs=1, batch_size=150), ()) if algorithm == "PPO" else ({}, (130,))
    policy = dict(flow_kwargs=dict(context_gain=0.2, conditioner_gain=0.3))
    assert_same([make(algorithm, 2, "nsf", policy, **settings) for _ in range(2)], *sizes, tolerance=1e-8)


def test_sac_with_batches_of_several_sizes_in_turn():
    assert_same([make("SAC", 2) for _ in range(2)], 5, 64, 100, 5, 64, tolerance=1e-7)  # Adam divides by nearly zero


@pytest.mark.parametrize(
    ("algorithm", "threads", "policy"),
    [
        ("SAC", 3, dict(net_arch=[140, 300])),
        ("SAC", 2, dict(net_arch=[140, 200])),  # the way back through the smallest critic goes by fewer columns
        ("NFAC", 2, dict(net_arch=[140, 300])),
        ("NFAC", 3, dict(net_arch=[140, 200], critic="categorical", architecture=dict(norm="layer"))),
        ("NFAC", 3, dict(net_arch=[140, 200], critic="categorical", architecture=dict(norm="batch"))),
        ("NFQ", 2, dict(net_arch=[140, 300])),
        ("PPO", 2, dict(net_arch=[140, 300])),
    ],
    ids=str,
)
def test_on_several_threads(algorithm, threads, policy):
    """Networks large enough to be shared out; torch itself has one thread, as several wait for each other busily."""
    sizes = (130,) if algorithm != "PPO" else ()
    settings = {} if algorithm != "PPO" else dict(n_epochs=1, batch_size=150)
    models = [make(algorithm, 3, "nsf", policy | dict(flow_kwargs=dict(hidden=(70,))), **settings) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        theirs = trained(models[0], "torch", *sizes)
        torch.set_num_threads(threads)
        ours = trained(models[1], "C", *sizes)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "policy",
    [
        dict(activation_fn=nn.Tanh, n_critics=3),
        dict(n_critics=1, net_arch=dict(pi=[8], qf=[24, 12, 8])),
        dict(optimizer_kwargs=dict(weight_decay=0.01, betas=(0.8, 0.9), eps=1e-5, maximize=True)),
    ],
    ids=str,
)
def test_sac_with_other_networks(policy):
    assert_same([make("SAC", 2, policy=policy) for _ in range(2)], 32)


@pytest.mark.parametrize(
    "settings",
    [
        dict(ent_coef=0.0),
        dict(clip_range_vf=0.05, clip_range=0.05, batch_size=48),
        dict(target_kl=0.1, learning_rate=0.03),  # three steps of the six
        dict(normalize_advantage=False, max_grad_norm=1e-2),
        dict(policy=dict(squash_output=False, activation_fn=nn.ReLU)),
        dict(policy=dict(net_arch=dict(pi=[8], vf=[16, 12]))),
    ],
    ids=str,
)
def test_ppo_in_every_setting(settings):
    models = [make("PPO", 2, **settings) for _ in range(2)]
    if settings.get("ent_coef") == 0:  # the log alone differs: an estimate of the entropy by other samples
        for model in models:
            model.train = lambda model=model: (type(model).train(model), model.logger.record("train/entropy_loss", 0))
    assert_same(models, tolerance=1e-5)  # several steps: Adam divides by nearly zero


@pytest.mark.parametrize("network", [0, 1])
@pytest.mark.parametrize("which", ["critic", "critic_target"])
def test_a_loss_that_is_not_a_number_raises_and_moves_nothing_by_it(which, network):
    model = make("SAC", 2)
    with torch.no_grad():
        getattr(model, which).q_networks[network][-1].bias.fill_(torch.nan)
    before = [parameter.clone() for parameter in model.actor.parameters()]
    with pytest.raises(ValueError, match="critic_loss = nan"):
        model.train(1, 32)
    assert model.update_form == "C"
    assert all(torch.equal(a, b) for a, b in zip(before, model.actor.parameters(), strict=True))


def test_a_gradient_that_is_not_a_number_passes_through_relu():
    """As torch's does: the slope at a NaN is not zero."""
    model = make("SAC", 2)
    with torch.no_grad():
        model.critic.q_networks[0][0].bias[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        model.train(1, 32)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_parameters_that_move_to_other_memory_are_followed(algorithm):
    """`share_memory` moves a tensor's storage in place; so does a state dict in a multiprocessing queue."""
    models = [make(algorithm, 2) for _ in range(2)]
    sizes = (32,) if algorithm == "SAC" else ()
    for model in models:
        trained(model, "C", *sizes)
    models[1].policy.share_memory()
    first, second = (trained(model, "C", *sizes) for model in models)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def replaced_layer(model: Any) -> None:
    network = model.actor.latent_pi if hasattr(model, "actor") else model.policy.mlp_extractor.policy_net
    network[0] = nn.Linear(3, 24)


def own_method(model: Any) -> None:
    owner, name = (model.actor, "action_log_prob") if hasattr(model, "actor") else (model.policy, "evaluate_actions")
    setattr(owner, name, getattr(owner, name))


def new_group(model: Any) -> None:
    optimizer = model.actor.optimizer if hasattr(model, "actor") else model.policy.optimizer
    optimizer.add_param_group(dict(params=[nn.Parameter(torch.zeros(1))]))


class Louder(FlowDistribution):
    """Whose log-probabilities are others."""

    def log_prob(self, *arguments: Any, **options: Any) -> torch.Tensor:
        return 2 * super().log_prob(*arguments, **options)


def own_distribution(model: Any) -> None:
    owner = model.actor if hasattr(model, "actor") else model.policy
    owner.action_dist = Louder(2, pre_squash=owner.action_dist.pre_squash)


def amsgrad(model: Any) -> None:
    owner = model.actor if hasattr(model, "actor") else model.policy
    owner.optimizer.param_groups[0]["amsgrad"] = True


def flow_of(model: Any) -> flowrl.Flow:
    return model.actor.flow if hasattr(model, "actor") else model.policy.action_net


def first(model: Any) -> nn.Linear:
    return model.actor.latent_pi[0] if hasattr(model, "actor") else model.policy.mlp_extractor.policy_net[0]


CHANGES = {
    "a layer that the optimiser does not know": (replaced_layer, "moves others"),
    "a method of the user's": (own_method, "is overridden"),
    "another parameter group": (new_group, "2 parameter groups"),
    "a parameter's hook": (lambda model: first(model).weight.register_hook(lambda g: g), "parameter's gradient"),
    "a hook after accumulation": (
        lambda model: first(model).weight.register_post_accumulate_grad_hook(lambda p: None),
        "parameter's gradient",
    ),
    "a forward hook": (lambda model: first(model).register_forward_hook(lambda *_: None), "listens to a network"),
    "a backward hook": (lambda model: first(model).register_full_backward_hook(lambda *_: None), "listens to"),
    "a frozen parameter": (lambda model: first(model).weight.requires_grad_(False), "frozen"),
    "another precision": (lambda model: first(model).float(), "type or device"),
    "a hook in the flow": (
        lambda model: flow_of(model).layers[0].register_forward_hook(lambda *_: None),
        "listens to a network",
    ),
    "another distribution of actions": (own_distribution, "distribution is Louder"),
    "an option of Adam's": (amsgrad, "amsgrad, which"),
    "an optimiser's hook": (
        lambda model: (
            model.policy.optimizer.register_step_pre_hook(lambda *_: None)
            if hasattr(model.policy, "optimizer")
            else model.critic.optimizer.register_step_pre_hook(lambda *_: None)
        ),
        "listens to the optimiser",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_what_c_cannot_honour_sends_the_update_to_torch_and_is_said_once(algorithm, change, caplog):
    model = make(algorithm, 2)
    assert model.update_form == "C" and model.update_reason == ""
    apply, reason = CHANGES[change]
    apply(model)
    model.choose_update()
    model.choose_update()
    assert model.update_form == "torch" and reason in model.update_reason
    assert sum(reason in record.getMessage() for record in caplog.records) == 1


def own_rollouts(model: Any) -> None:
    class Rollouts(RolloutBuffer):
        """One's own, which may hand out minibatches as it likes."""

    model.rollout_buffer.__class__ = Rollouts


SETTINGS = {
    "atoms to drop": ("NFAC", lambda model: setattr(model, "drop_atoms", 3), "pool atoms"),
    "a rollout buffer of one's own": ("PPO", own_rollouts, "hands out minibatches by itself"),
    "its method": ("PPO", lambda model: setattr(model.rollout_buffer, "get", model.rollout_buffer.get), "by itself"),
}


@pytest.mark.parametrize("change", SETTINGS)
def test_a_setting_that_c_does_not_know_sends_the_update_to_torch_for_as_long_as_it_stands(change):
    algorithm, apply, reason = SETTINGS[change]
    model = make(algorithm, 2)
    apply(model)
    model.choose_update()
    assert model.update_form == "torch" and reason in model.update_reason


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_under_autocast_updates_are_those_of_torch(algorithm):
    model = make(algorithm, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.choose_update()
        assert model.update_form == "torch" and "autocast" in model.update_reason
    model.choose_update()
    assert model.update_form == "C"


@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "NFAC"])
def test_numbers_that_are_set_later_are_read(algorithm):
    models = [make(algorithm, 2) for _ in range(2)]
    for model in models:
        (model.policy.action_net if algorithm == "PPO" else model.actor.flow).log_std_max = -1.0
        if algorithm == "NFAC":
            model.critic.head.noise = 1.0
        if algorithm == "PPO":
            model.max_grad_norm = None
    assert_same(models, *([] if algorithm == "PPO" else [32]))


@pytest.mark.parametrize("algorithm", ["PPO", "NFAC"])
def test_what_is_no_module_may_be_replaced(algorithm):
    models = [make(algorithm, 2) for _ in range(2)]
    for model in models:
        if algorithm == "PPO":
            model.policy.action_dist = FlowDistribution(2, squash=False, pre_squash=True)
        else:
            head = CategoricalHead(bound=2.0, n_bins=model.critic.head.size)
            model.critic.head = model.critic_target.head = head
    assert_same(models, *([] if algorithm == "PPO" else [32]))


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_an_optimiser_is_left_alone_until_the_first_update(algorithm):
    model = make(algorithm, 2)
    owner = model.actor if algorithm == "SAC" else model.policy
    model.choose_update()
    assert model.update_form == "C" and not owner.optimizer.state
    assert all(parameter.grad is None for parameter in owner.parameters())
    amsgrad(model)
    trained(model, "torch", *((32,) if algorithm == "SAC" else ()))
    assert "max_exp_avg_sq" in owner.optimizer.state[first(model).weight]


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_layer_replaced_with_its_optimiser_is_trained_in_c(algorithm):
    model = make(algorithm, 2)
    replaced_layer(model)
    owner = model.actor if algorithm == "SAC" else model.policy
    owner.optimizer = torch.optim.Adam(owner.parameters(), lr=1e-2)
    before = first(model).weight.clone()
    trained(model, "C", *((32,) if algorithm == "SAC" else ()))
    assert not torch.equal(before, first(model).weight)


@pytest.mark.parametrize("flow", ["maf", "planar", "twice"])
def test_flows_of_other_steps_go_by_torch(flow, monkeypatch):
    """`twice`: layers that share weights, where the second one's gradients would overwrite the first one's."""
    monkeypatch.setitem(recipes._RECIPES, "twice", lambda features, context: [*recipes.nsf(features, context)] * 2)
    assert make("SAC", 2, flow).update_form == "torch"


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_model_that_nobody_holds_is_forgotten(algorithm):
    model = make(algorithm, 2)
    trained(model, "C", *((32,) if algorithm == "SAC" else ()))
    model.predict(np.zeros(3))
    held = [weakref.ref(model), weakref.ref(model.policy)]
    del model
    gc.collect()
    assert [reference() for reference in held] == [None, None]


class OwnNorm(nn.LayerNorm):
    """A user's."""


def normed(**architecture: Any) -> Any:
    """NFAC with layer norms."""
    return make("NFAC", 2, policy=dict(architecture=dict(norm="layer") | architecture))


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(24, eps=1e-2),  # the others have another
        nn.LayerNorm(24, elementwise_affine=False),
        nn.LayerNorm(24, bias=False),
        nn.LayerNorm((1, 24)),
        nn.RMSNorm(24),
        OwnNorm(24),
    ],
    ids=repr,
)
def test_norms_that_the_kernel_does_not_know_are_torchs(norm):
    model = normed()
    model.critic.networks[0][1] = norm
    model.choose_update()
    assert model.update_form == "torch" and "layer norm" in model.update_reason


def test_a_norm_that_ends_a_network_is_torchs():
    model = normed()
    model.critic.networks[0].append(nn.LayerNorm(model.critic.head.size))
    model.choose_update()
    assert model.update_form == "torch"


def test_a_norms_epsilon_is_its_own_at_every_update():
    models = [normed() for _ in range(2)]
    for model in models:
        norms = [part for part in model.policy.modules() if isinstance(part, nn.LayerNorm)]
        for norm in norms:
            norm.eps = 0.3
    assert_same(models, 32, 32, tolerance=1e-6)
    norms[0].eps = 0.2
    models[-1].choose_update()
    assert models[-1].update_form == "torch"


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
@pytest.mark.parametrize("part", ["actor", "critic"])
def test_what_is_not_finite_is_so_after_a_norm(part, value):
    model = normed()
    network = model.actor.latent_pi if part == "actor" else model.critic.networks[0]
    network[0].bias[0] = value  # 1e200: its square is infinite
    with torch.enable_grad(), pytest.raises(flowrl.Diverged):
        model.train(1, 32)
    assert model.update_form == "C"
