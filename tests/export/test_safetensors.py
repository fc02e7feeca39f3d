"""A policy's safetensors file: the same policy to the bit, and nothing that a file says is run."""

import copy
import json
import pickle
from functools import partial

import cloudpickle
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import flowrl
from flowrl.algorithms import NFAC, NFQ, SNF
from flowrl.export import allow, load_policy, save_policy
from tests.environments import Aim
from tests.models import ALGORITHMS, build_policy, log_prob, perturb, states

OFF = dict(buffer_size=10, device="cpu")
ON = dict(n_steps=16, batch_size=16, device="cpu")
OURS = {
    "NFAC": partial(NFAC, **OFF),
    "NFQ": partial(NFQ, **OFF),
    "SNF": partial(SNF, **ON),
    "SNF on A2C": partial(SNF, base="a2c", n_steps=16, device="cpu"),
}
THEIRS = {"SAC": partial(SAC, **OFF), "PPO": partial(PPO, **ON), "A2C": partial(A2C, device="cpu")}


def plain(algorithm, **kwargs):
    """A policy whose every argument is data."""
    policy = build_policy(algorithm, features_extractor_class=FlattenExtractor, **kwargs)
    perturb(policy)
    return policy


def through(pickler, value):
    return pickler.loads(pickler.dumps(value))


def assert_comes_back(model, env, path) -> None:
    """To the bit: deterministic actions, samples from one seed and, where it has one, the density."""
    perturb(getattr(model, "policy", model))
    save_policy(model, path / "policy.safetensors")
    policy, obs = load_policy(path / "policy.safetensors", device="cpu"), states(env)
    for deterministic in (True, False):
        actions = []
        for actor in (model, policy):
            torch.manual_seed(0)
            actions.append(actor.predict(obs, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*actions)
    if getattr(policy, "has_log_prob", False):
        assert torch.equal(log_prob(model, env), log_prob(policy, env))


@pytest.mark.parametrize("flow", ["triangular", "nsf", "glow"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policies_of_sb3_come_back(algorithm, flow, tmp_path):
    assert_comes_back(plain(algorithm, flow=flow), Aim(), tmp_path)


@pytest.mark.parametrize("kwargs", [{}, dict(flow="nsf", flow_kwargs=dict(layers=1, bins=4))])
@pytest.mark.parametrize("algorithm", OURS)
def test_policies_of_flowrl_come_back(algorithm, kwargs, tmp_path):
    model = OURS[algorithm]("FlowPolicy", Aim(), policy_kwargs=dict(net_arch=[8], **kwargs))
    assert_comes_back(model, Aim(), tmp_path)


@pytest.mark.parametrize("share", [True, False], ids=["shared extractor", "own extractors"])
@pytest.mark.parametrize("observation, policy", [("dict", "FlowMultiInputPolicy"), ("image", "FlowCnnPolicy")])
@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "NFAC"])
def test_images_and_dictionaries_come_back(algorithm, observation, policy, share, tmp_path):
    env = Aim(observation=observation)
    kwargs = dict(net_arch=[8], share_features_extractor=share)
    if observation == "image":
        kwargs["features_extractor_kwargs"] = dict(features_dim=8)
    assert_comes_back((OURS | THEIRS)[algorithm](policy, env, policy_kwargs=kwargs), env, tmp_path)


@pytest.mark.parametrize("algorithm", ["SAC", "A2C"])
def test_baselines_come_back(algorithm, tmp_path):
    assert_comes_back(THEIRS[algorithm]("MlpPolicy", Aim(), policy_kwargs=dict(net_arch=[8])), Aim(), tmp_path)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(deterministic_action="best", n_candidates=3),
        dict(activation_fn=torch.nn.ELU, optimizer_class=torch.optim.AdamW, optimizer_kwargs=dict(betas=(0.8, 0.9))),
        dict(n_critics=3, net_arch=dict(pi=[8], qf=[16]), optimizer_kwargs=dict(eps=np.float32(1e-5))),
    ],
)
def test_arguments_come_back(kwargs, tmp_path):
    policy = plain("SAC", **kwargs)
    assert_comes_back(policy, Aim(), tmp_path)
    loaded = load_policy(tmp_path / "policy.safetensors", device="cpu")
    assert loaded.flow_spec == policy.flow_spec and loaded.activation_fn is policy.activation_fn


def test_a_number_of_updates_may_be_large(tmp_path):
    policy = plain("CrossQ", renorm_warmup_steps=1_000_000)
    save_policy(policy, tmp_path / "policy.safetensors")
    loaded = load_policy(tmp_path / "policy.safetensors", device="cpu")
    assert loaded._get_constructor_parameters()["renorm_warmup_steps"] == 1_000_000


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, partial(through, pickle), partial(through, cloudpickle)],
    ids=["deepcopy", "pickle", "cloudpickle"],
)
def test_a_policy_that_normalises_its_input_can_be_copied_and_pickled(duplicate, tmp_path):
    vec = VecNormalize(DummyVecEnv([Aim]))
    save_policy(PPO("FlowPolicy", vec, policy_kwargs=dict(net_arch=[8]), **ON).learn(32), tmp_path / "policy")
    policy, obs = load_policy(tmp_path / "policy", device="cpu"), states(Aim())
    expected, _ = policy.predict(obs, deterministic=True)
    other = duplicate(policy)
    for statistics in policy.input_normalization.statistics.values():
        statistics[0][:] += 5.0
    np.testing.assert_array_equal(other.predict(obs, deterministic=True)[0], expected)
    assert (policy.predict(obs, deterministic=True)[0] != expected).any()


@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_normalised_observations_come_back(observation, tmp_path):
    """The policy's own statistics, and those of the VecNormalize around a model's environment."""
    env = Aim(observation=observation)
    policy = "FlowPolicy" if observation == "vector" else "FlowMultiInputPolicy"
    own = NFAC(policy, env, policy_kwargs=dict(net_arch=[8], normalize_observations=True), learning_starts=50, **OFF)
    own.learn(20)
    assert own.policy.normalization.count > 0
    assert_comes_back(own, env, tmp_path)

    vec = VecNormalize(DummyVecEnv([lambda: env]))
    wrapped = PPO(policy, vec, policy_kwargs=dict(net_arch=[8]), **ON).learn(32)
    save_policy(wrapped, tmp_path / "wrapped.safetensors")
    loaded, obs = load_policy(tmp_path / "wrapped.safetensors", device="cpu"), states(env)
    expected, _ = wrapped.predict(vec.normalize_obs(obs), deterministic=True)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    save_policy(loaded, tmp_path / "again.safetensors")
    again = load_policy(tmp_path / "again.safetensors", device="cpu")
    np.testing.assert_array_equal(again.predict(obs, deterministic=True)[0], expected)


def test_the_caller_s_random_numbers_are_left_alone(tmp_path):
    policy = plain("SAC")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    save_policy(policy, tmp_path / "policy.safetensors")
    load_policy(tmp_path / "policy.safetensors")
    assert torch.equal(torch.rand(3), expected)


# -- what cannot be said as data ---------------------------------------------------------------------------------------


class Doubled(FlattenExtractor):
    """A features extractor of the user's own."""

    def forward(self, observations):
        return 2 * super().forward(observations)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(flow=lambda features, context: []), r"flow=<function .* flowrl.register_flow\(name, builder\)"),
        (dict(flow=[]), r"flow=\[\] .* flowrl.register_flow"),
        (dict(activation_fn=torch.nn.Hardswish), r"activation_fn=torch.*Hardswish is not on the list .*allow\(cls\)"),
    ],
)
def test_what_is_no_data_is_named_with_its_cure(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_policy(plain("SAC", **kwargs), tmp_path / "policy.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_extractor_of_one_s_own_goes_once_it_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("flowrl.export.allowed._BY_NAME", dict(flowrl.export.allowed._BY_NAME))
    policy = build_policy("PPO", features_extractor_class=Doubled)
    with pytest.raises(ValueError, match=r"features_extractor_class=.*Doubled .*flowrl.export.allow\(cls\)"):
        save_policy(policy, tmp_path / "policy.safetensors")
    allow(Doubled)
    assert_comes_back(policy, Aim(), tmp_path)
    with pytest.raises(ValueError, match="'torch.nn.ReLU' is that of"):
        allow(Doubled, "torch.nn.ReLU")


def test_a_flow_of_one_s_own_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("flowrl.flows.recipes._RECIPES", dict(flowrl.flows.recipes._RECIPES))
    flowrl.register_flow("own", flowrl.flows.recipes.realnvp)
    policy = plain("SAC", flow="own")
    assert_comes_back(policy, Aim(), tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="Unknown flow 'own'.*register_flow"):
        load_policy(tmp_path / "policy.safetensors")


def test_a_policy_that_was_changed_by_hand_is_refused(tmp_path):
    policy = plain("SAC")
    policy.actor.latent_pi.append(torch.nn.Linear(16, 16))
    with pytest.raises(ValueError, match="would not open again.*flowrl.export.allow"):
        save_policy(policy, tmp_path / "policy.safetensors")


# -- what comes from elsewhere -----------------------------------------------------------------------------------------


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def saved(tmp_path):
    """A file, its description and its tensors."""
    path = save_policy(plain("SAC"), tmp_path / "policy.safetensors")
    with safe_open(path, "pt") as file:
        return path, json.loads(file.metadata()["flowrl"]), {name: file.get_tensor(name) for name in file.keys()}


def rewritten(saved, change_description=lambda d: None, change_tensors=lambda t: None):
    """The file with another description, or other tensors."""
    path, description, tensors = saved
    change_description(description)
    change_tensors(tensors)
    text = description if isinstance(description, str) else json.dumps(description)
    save_file(tensors, path, metadata={"format": "pt", "flowrl": text})
    return path


@pytest.mark.parametrize("write", ["pickle", "torch", "zip", "text", "nothing", "truncated", "no file"])
def test_what_is_no_such_file_is_one_error_and_runs_nothing(write, tmp_path, saved):
    path, trace = saved[0], tmp_path / "trace"
    whole = path.read_bytes()
    if write == "pickle":
        path.write_bytes(pickle.dumps(Payload(trace)))
    elif write == "torch":
        torch.save(Payload(trace), path)
    elif write == "zip":
        with open(path, "wb") as file:
            SAC("FlowPolicy", Aim(), policy_kwargs=dict(net_arch=[8]), **OFF).save(file)
    elif write == "no file":
        path.unlink()
    else:
        path.write_bytes({"text": b"hello" * 20, "nothing": b"", "truncated": whole[: len(whole) // 2]}[write])
    with pytest.raises(ValueError, match="policy.safetensors"):
        load_policy(path)
    assert not trace.exists()


LARGE = dict(type="Box", shape=[2**23], dtype="float32", low=0.0, high=1.0)


def change(**entries):
    return lambda description: description.update(entries)


def argument(**entries):
    return lambda description: description["arguments"].update(entries)


def space(**entries):
    return lambda description: description["observation_space"].update(entries)


@pytest.mark.parametrize(
    "change_description, message",
    [
        (change(policy="os.system"), "names the class 'os.system'"),
        (change(policy="torch.nn.ReLU"), "'torch.nn.ReLU' is no policy"),
        (change(policy=["SAC FlowPolicy"]), "not on the list"),
        (change(policy="SAC FlowPolcy"), "is it 'SAC FlowPolicy'"),
        (argument(activation_fn={"$class": "os.system"}), "names the class 'os.system'"),
        (argument(activation_fn={"$call": "os.system"}), "unknown mark"),
        (argument(activation_fn="os.system"), "builds no SAC FlowPolicy"),
        (argument(features_extractor_class={"$class": "torch.optim.Adam"}), "builds no SAC FlowPolicy"),
        (argument(system="rm"), "builds no SAC FlowPolicy .*system"),
        (argument(flow="nsff"), "Unknown flow 'nsff'. Did you mean 'nsf'"),
        (argument(net_arch=[2**30]), "absurd"),
        (argument(renorm_warmup_steps=2**60), "absurd"),
        (argument(net_arch=[2**16, 2**16]), "far larger than the file's tensors"),
        (argument(net_arch=[1000] * 1000), "far larger than the file's tensors"),
        (argument(flow_kwargs=dict(layers=2**16)), "far larger than the file's tensors"),
        (change(arguments=None), "no arguments"),
        (change(format=2), "has format 2, and this flowrl reads up to 1: take a newer flowrl"),
        (change(format="1"), "does not say which format"),
        (space(shape=[2**40]), "too large"),
        (change(observation_space=dict(type="Dict", spaces=[[str(i), LARGE] for i in range(50)])), "too large"),
        (argument(flow="maf", flow_kwargs=dict(hidden=[40_000, 40_000])), "far larger than the file's tensors"),
        (space(shape=[-1]), "is none"),
        (space(shape=[2.5]), "no integer"),
        (space(dtype="object"), "no type of numbers"),
        (space(low="import os"), "describes no space|could not convert"),
        (space(low="nan"), "NaN"),
        (space(low=[1.0, 2.0]), "reshape|describes no space"),
        (space(type="Tuple"), "no kind of space"),
        (change(observation_space=None), "describes no space"),
        (change(input_normalization=dict(clip=1, epsilon=0, statistics={"": {"mean": [0.0]}})), "normalisation"),
    ],
)
def test_an_evil_description_is_one_error(saved, change_description, message):
    path = rewritten(saved, change_description)
    with pytest.raises(ValueError, match=f"policy.safetensors is no policy that can be opened: .*({message})"):
        load_policy(path)


@pytest.mark.parametrize(
    "change_tensors, message",
    [
        (lambda t: t.popitem(), "missing"),
        (lambda t: t.update(more=torch.zeros(1)), "too many .'more'"),
        (lambda t: t.update({"actor.flow.context_map.bias": torch.zeros(1)}), r"'actor.flow.context_map.bias' is of"),
        (
            lambda t: t.update({"actor.flow.context_map.bias": t["actor.flow.context_map.bias"].double()}),
            "torch.float64",
        ),
    ],
)
def test_other_tensors_are_one_error(saved, change_tensors, message):
    with pytest.raises(ValueError, match=message):
        load_policy(rewritten(saved, change_tensors=change_tensors))


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, "no JSON"),
        ("{", "no JSON"),
        ("3", "which format"),
        ("[]", "which format"),
        (" " * 2**23 + "{}", "more than"),
    ],
)
def test_absurd_json_is_one_error(saved, text, message):
    path, _, tensors = saved
    save_file(tensors, path, metadata={"flowrl": text})
    with pytest.raises(ValueError, match=f"policy.safetensors .*{message}"):
        load_policy(path)


def test_tensors_without_a_description_are_refused(saved):
    path, _, tensors = saved
    save_file(tensors, path)
    with pytest.raises(ValueError, match="not flowrl's description"):
        load_policy(path)


def test_only_models_and_policies_are_saved(tmp_path):
    with pytest.raises(ValueError, match="got a Linear"):
        save_policy(torch.nn.Linear(1, 1), tmp_path / "policy.safetensors")


# -- spaces ------------------------------------------------------------------------------------------------------------

SPACES = [
    spaces.Box(-np.inf, np.inf, (3,)),
    spaces.Box(np.float32([0.1, -np.inf, 1e-30]), np.float32([0.3, 3e38, np.inf])),
    spaces.Box(np.float64([0.1, -1e300]), np.float64([1 / 3, np.inf]), dtype=np.float64),
    spaces.Box(0, 255, (2, 4, 3), np.uint8),
    spaces.Box(-(2**40), 2**62, (2,), np.int64),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 4], start=[1, -1]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict(
        [("z", spaces.Discrete(3)), ("a", spaces.Box(-1, 1, (2,))), ("m", spaces.Dict(n=spaces.MultiBinary(2)))]
    ),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back(space):
    from flowrl.export.spaces import build_space, describe_space

    back = build_space(json.loads(json.dumps(describe_space(space), allow_nan=False)))
    assert back == space and type(back) is type(space)
    if isinstance(space, spaces.Box):
        assert back.dtype == space.dtype
        assert np.array_equal(back.low, space.low) and np.array_equal(back.high, space.high)
    if isinstance(space, spaces.Dict):
        assert list(back) == list(space), "the order is that of a network's inputs"
