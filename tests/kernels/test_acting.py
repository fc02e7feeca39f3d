"""The one call of C that acts gives the actions that torch's operations give, and steps aside where it must."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gymnasium import spaces

from flowrl import Flow, FlowDistribution, kernels
from flowrl.kernels import library
from flowrl.policies import FlowActorCriticPolicy, FlowPolicy
from flowrl.policies.return_critic import NFACPolicy
from tests.models import KERNEL_CASES, KERNEL_FLOWS, OBSERVATIONS, Precise, build_policy, observations, perturb

kernels_act = kernels.act
pytestmark = pytest.mark.skipif(library.load(torch.float64) is None, reason="no C compiler: install gcc")


def policy_of(algorithm, flow="triangular", d=2, **kwargs):
    space = spaces.Box(-1.0, 1.0, (d,))
    options = dict(flow_kwargs=KERNEL_FLOWS[flow]) | kwargs
    policy = build_policy(algorithm, action_space=space, flow=flow, **options).double()
    perturb(policy, 0.1)
    policy.set_training_mode(False)
    return policy


def fused(policy, obs, deterministic=False):
    """What the call of C gives, or None."""
    found = []

    def record(*args):
        found.append(kernels_act(*args))
        return found[-1]

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "act", record)
        policy._predict(obs, deterministic)
    return found[0].actions if found and found[0] else None


def in_torch(policy, obs, deterministic=False):
    """What torch's operations give."""
    with torch.no_grad():
        return policy.get_distribution(obs).get_actions(deterministic=deterministic)


def assert_same_actions(policy, obs):
    for deterministic in (True, False):
        torch.manual_seed(7)
        expected, after = in_torch(policy, obs, deterministic), torch.rand(())
        torch.manual_seed(7)
        torch.testing.assert_close(fused(policy, obs, deterministic), expected, rtol=1e-10, atol=1e-10)
        assert torch.rand(()) == after, "the same random numbers were drawn"


@pytest.mark.parametrize("batch", [1, 70])
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize(("flow", "d"), KERNEL_CASES)
def test_it_acts_as_the_policy_does(algorithm, flow, d, batch):
    assert_same_actions(policy_of(algorithm, flow, d), observations(batch).double())


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_it_acts_as_a_policy_with_a_gain_does(algorithm):
    assert_same_actions(policy_of(algorithm, flow_kwargs=dict(context_gain=0.2)), observations(5).double())


def normed(norm):
    """A policy of NFAC."""
    torch.manual_seed(0)
    box = spaces.Box(-1.0, 1.0, (2,))
    options = dict(net_arch=[16, 8], features_extractor_class=Precise, architecture=dict(norm=norm))
    policy = NFACPolicy(OBSERVATIONS, box, lambda _: 1e-3, **options).double()
    perturb(policy, 0.1)
    policy.set_training_mode(False)
    return policy


@pytest.mark.parametrize("batch", [1, 70])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_it_acts_as_a_policy_with_norms_does(batch, norm):
    policy = normed(norm)
    for part in policy.actor.latent_pi[1::3] if norm == "batch" else []:
        part.mean.uniform_(-1, 1), part.variance.uniform_(0.5, 2)
    assert_same_actions(policy, observations(batch).double())


def test_batch_norms_act_by_the_moments_that_they_have_now():
    policy, obs = normed("batch"), observations(5).double()
    assert_same_actions(policy, obs)
    norm = policy.actor.latent_pi[1]
    norm.mean = norm.mean + 1  # another tensor
    assert_same_actions(policy, obs)
    norm.variance *= 3  # the same
    assert_same_actions(policy, obs)
    policy.set_training_mode(True)  # by the batch, which is torch's
    assert fused(policy, obs, True) is None


def test_it_acts_as_tqc_does():
    assert_same_actions(policy_of("TQC"), observations(5).double())


@pytest.mark.parametrize("settings", [dict(squash_output=False), dict(activation_fn=torch.nn.ReLU)], ids=str)
def test_it_acts_as_other_actor_critics_do(settings):
    assert_same_actions(policy_of("PPO", **settings), observations(3).double())


@pytest.mark.parametrize("net_arch", [[16], dict(pi=[8, 12], vf=[16])])
@pytest.mark.parametrize("squash_output", [True, False])
def test_a_rollout_of_ppo_acts_by_one_call(net_arch, squash_output, monkeypatch):
    """Actions, values and log-probs of `policy(obs)` are torch's."""
    policy, obs = policy_of("PPO", "nsf", net_arch=net_arch, squash_output=squash_output), observations(5).double()
    results = []
    with torch.no_grad():
        for replaced in (kernels_act, lambda *_: None):
            monkeypatch.setattr(kernels, "act", replaced)
            torch.manual_seed(7)
            results.append((*policy(obs), torch.rand(())))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_it_sees_new_weights_and_follows_copies(algorithm):
    policy, obs = policy_of(algorithm), observations(3).double()
    network = policy.actor.latent_pi if algorithm == "SAC" else policy.mlp_extractor.policy_net
    assert_same_actions(policy, obs)
    before = fused(policy, obs, True)
    perturb(policy, 0.1, seed=3)
    assert_same_actions(policy, obs)
    network[0].weight = torch.nn.Parameter(network[0].weight * 2)
    assert_same_actions(policy, obs)
    network[0] = torch.nn.Linear(3, 16).double()
    assert_same_actions(policy, obs)
    for copied in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        perturb(copied, 0.1, seed=4)
        assert_same_actions(copied, obs)
    assert not torch.equal(fused(policy, obs, True), before)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_what_is_not_finite_is_refused(algorithm):
    with pytest.raises(ValueError, match="not finite"):
        fused(policy_of(algorithm), observations(3).double() * torch.nan)


def test_threads_do_not_disturb_each_other():
    policy = policy_of("SAC", "nsf", 17)
    states = [observations(1, seed).double() for seed in range(40)]
    expected = [fused(policy, obs, True) for obs in states]

    @torch.no_grad()
    def predict(obs):  # not by way of fused(), whose patch is all threads' together
        return policy._predict(obs, True)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = list(pool.map(predict, states))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def networks_of(policy):
    """What a call of the policy calls: network, flow, its map."""
    flow = policy.actor.flow if hasattr(policy, "actor") else policy.action_net
    network = policy.actor.latent_pi if hasattr(policy, "actor") else policy.mlp_extractor.policy_net
    return network, network[0], network[1], flow, flow.context_map


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize("which", range(5))
def test_where_a_hook_listens_torch_acts(algorithm, which):
    policy, obs = policy_of(algorithm), observations(2).double()
    calls = []
    handle = networks_of(policy)[which].register_forward_hook(lambda *_: calls.append(1))
    assert fused(policy, obs) is None
    policy.predict(obs.float().numpy())
    assert calls
    handle.remove()
    assert fused(policy, obs) is not None


def test_where_a_hook_listens_to_the_owner_of_ppos_networks_torch_acts():
    policy, obs = policy_of("PPO"), observations(2).double()
    calls = []
    handle = policy.mlp_extractor.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        policy(obs)
        assert calls
        handle.remove()
        network = policy.mlp_extractor.policy_net
        policy.mlp_extractor.forward_actor = lambda features: calls.append(2) or network(features)
        policy._predict(obs)
    assert calls == [1, 2]


def test_where_hooks_listen_to_every_module_torch_acts():
    policy, obs = policy_of("SAC"), observations(2).double()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert fused(policy, obs) is None
    finally:
        handle.remove()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused(policy, obs) is None


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_features_of_another_size_are_left_to_torch(algorithm):
    policy = policy_of(algorithm)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), torch.no_grad():
        policy._predict(torch.ones(2, 4).double())


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_flow_that_was_put_in_place_later_acts(algorithm):
    policy, obs = policy_of(algorithm), observations(2).double()
    owner, name = (policy.actor, "flow") if algorithm == "SAC" else (policy, "action_net")
    setattr(owner, name, Flow(2, 16, "affine").double())
    perturb(policy, 0.2)
    assert_same_actions(policy, obs)

    class Shifted(FlowDistribution):
        def get_actions(self, deterministic=False):
            return super().get_actions(deterministic) + 0.1

    policy_or_actor = policy.actor if algorithm == "SAC" else policy
    policy_or_actor.action_dist = Shifted(2, squash=True, pre_squash=algorithm == "PPO")
    assert fused(policy, obs) is None


def test_a_default_device_that_is_another_changes_nothing():
    policy, obs = policy_of("SAC", "nsf"), observations(2).double()
    expected = fused(policy, obs, True)
    torch.set_default_device("meta")
    try:
        found = fused(policy, obs, True)
        assert fused(policy, obs).device.type == "cpu"
        density = policy.log_prob(obs, found)
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, expected) and density.device.type == "cpu"


class OwnDensity(FlowPolicy):
    """A policy whose actor is another's."""

    class actor_class(FlowPolicy.actor_class):
        def get_distribution(self, obs):
            return super().get_distribution(obs)


class OwnActorCritic(FlowActorCriticPolicy):
    """A policy with a distribution of its own."""

    def get_distribution(self, obs):
        return super().get_distribution(obs)


@pytest.mark.parametrize("cls", [OwnDensity, OwnActorCritic])
def test_where_a_method_is_the_users_torch_acts(cls):
    policy = cls(OBSERVATIONS, spaces.Box(-1.0, 1.0, (2,)), lambda _: 1e-3, net_arch=[16])
    assert fused(policy, observations(2)) is None
    assert policy.predict(observations(2).numpy())[0].shape == (2, 2)


class Deterministic(torch.nn.Module):
    """A policy to deploy."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, obs):
        return self.policy._predict(obs, deterministic=True)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated", "ignore::torch.jit.TracerWarning")
def test_with_gradients_and_under_a_tracer_torch_acts(algorithm):
    policy, obs = policy_of(algorithm), observations(2).double()
    assert policy._predict(obs).requires_grad
    with torch.no_grad():
        traced = torch.jit.trace(Deterministic(policy), obs, check_trace=False)
        other = observations(2, seed=9).double()
        torch.testing.assert_close(traced(other), policy._predict(other, deterministic=True))


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        ("CrossQ", {}),
        ("SAC", dict(flow="maf")),
        ("SAC", dict(activation_fn=torch.nn.ELU)),
        ("SAC", dict(net_arch=dict(pi=[], qf=[16]))),
        ("PPO", dict(net_arch=[])),
    ],
    ids=str,
)
def test_other_networks_and_flows_act_in_torch(algorithm, kwargs):
    policy = build_policy(algorithm, **kwargs)
    assert fused(policy, observations(2)) is None
    assert policy.predict(observations(2).numpy())[0].shape[0] == 2


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_method_of_an_instance_acts(algorithm):
    policy, obs = policy_of(algorithm), observations(2).double()
    owner = policy.actor if algorithm == "SAC" else policy
    owner.get_distribution = lambda obs, own=owner.get_distribution: own(obs)
    assert fused(policy, obs) is None


def test_weights_that_are_transposed_in_place_are_left_to_torch():
    policy, obs = policy_of("SAC", net_arch=[3, 16]), observations(2).double()
    fused(policy, obs)
    weight = policy.actor.latent_pi[0].weight
    weight.data = weight.data.t()
    assert fused(policy, obs) is None
