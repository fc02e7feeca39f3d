"""A policy as an ONNX model: what onnxruntime gives is what the policy gives, for every recipe and any batch."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecExtractDictObs, VecFrameStack, VecNormalize

import flowrl
from flowrl.algorithms import NFAC, NFQ, SNF
from flowrl.export import ONNX_FLOWS, save_policy, to_onnx
from flowrl.export import onnx as module
from flowrl.layers import ContinuousLayer
from flowrl.transforms import Affine
from tests.environments import Aim, Spaces
from tests.models import build_policy, env_actions, observations, perturb, states

# Small forms of the recipes: the graph's size, and hence the test's time, goes with layers and steps.
SMALL = {"ffjord": dict(layers=1, steps=2), "waveglow": dict(scales=1, steps=1), "glow": dict(layers=1)}
SLOW = {("nsf-ar", "sample"), ("maf", "sample"), ("naf", "sample"), ("iaf", "log_prob")}  # d passes, each traced


def make(algorithm="SAC", d=2, flow="triangular", **kwargs):
    """A policy with a box that is neither symmetric nor of unit size."""
    low, width = np.linspace(-2, 0, d, dtype=np.float32), np.linspace(1, 9, d, dtype=np.float32)
    kwargs = dict(net_arch=[8], features_extractor_class=FlattenExtractor) | kwargs
    if isinstance(flow, str) and flow not in ("gaussian", "affine"):
        kwargs["flow_kwargs"] = SMALL.get(flow, dict(layers=1))
    policy = build_policy(algorithm, action_space=spaces.Box(low, low + width), flow=flow, **kwargs)
    perturb(policy)
    return policy


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


def assert_close(ours, theirs) -> None:
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def test_every_recipe_is_on_the_list_or_refused():
    assert set(ONNX_FLOWS) == set(flowrl.available_flows())


QUICK = ("nsf",)  # at all d; the others at d = 3, and at 1 and 17 where time is no matter


def marks(flow: str, d: int, output: str) -> list:
    is_quick = (d == 3 or flow in QUICK) and (flow, output) not in SLOW
    return [] if is_quick else [pytest.mark.slow]


CASES = [
    pytest.param(flow, d, output, marks=marks(flow, d, output))
    for flow in ONNX_FLOWS
    for d in (1, 3, 17)
    for output in ("sample", "log_prob")
]


@torch.no_grad()
@pytest.mark.parametrize("flow, d, output", CASES)
def test_every_recipe_gives_what_the_policy_gives(flow, d, output, tmp_path):
    policy = make(d=d, flow=flow)
    path = to_onnx(policy, tmp_path / "policy.onnx", output)
    for batch in (2, 5):
        obs = observations(batch)
        if output == "log_prob":
            actions = torch.as_tensor(policy.predict(obs.numpy())[0])
            (log_prob,) = run(path, observation=obs, action=actions)
        else:
            noise = torch.randn(batch, d)
            actions, log_prob = run(path, observation=obs, noise=noise)
            emitted = policy.get_distribution(obs).distribution.from_noise(noise)
            assert_close(policy.unscale_action(emitted.numpy()), actions)
        expected = policy.log_prob(obs, torch.as_tensor(actions))
        # Of its own action a policy knows the noise; by the action alone, rounded, the density is less precise.
        np.testing.assert_allclose(log_prob, expected, rtol=1e-5 if output == "log_prob" else 1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "algorithm, choice",
    [
        ("SAC", "mean"),
        ("SAC", "densest"),
        ("SAC", "best"),
        ("SAC", "average"),
        ("PPO", "average"),
        ("TQC", "best"),
        ("CrossQ", "best"),
        ("PPO", "densest"),
    ],
)
def test_the_deterministic_action_is_that_of_predict(algorithm, choice, tmp_path):
    policy = make(algorithm, deterministic_action=choice)
    path = to_onnx(policy, tmp_path / "policy.onnx")
    for batch in (1, 6):
        obs = observations(batch)
        (actions,) = run(path, observation=obs)
        assert_close(policy.predict(obs.numpy(), deterministic=True)[0], actions)
        assert (actions >= policy.action_space.low).all() and (actions <= policy.action_space.high).all()


@pytest.mark.parametrize("squash", [True, False])
def test_an_on_policy_action_is_the_environment_s_and_inside_its_box(squash, tmp_path):
    """Where the policy itself emits it before the tanh, or before the clip."""
    policy = make("PPO", squash_output=squash)
    obs, noise = observations(200), 5 * torch.randn(200, 2)
    action, log_prob = run(to_onnx(policy, tmp_path / "policy.onnx", "sample"), observation=obs, noise=noise)
    box = policy.action_space
    assert (action >= box.low).all() and (action <= box.high).all() and np.isfinite(log_prob).all()
    assert (action == box.high).any() or squash
    actions = env_actions(box, 5)
    (log_prob,) = run(to_onnx(policy, tmp_path / "policy.onnx", "log_prob"), observation=obs[:5], action=actions)
    with torch.no_grad():
        assert_close(policy.log_prob(obs[:5], actions), log_prob)


@pytest.mark.parametrize("algorithm, observation", [(SAC, "dict"), (PPO, "image"), (NFQ, "image"), (PPO, "dict")])
def test_observations_are_preprocessed_inside(algorithm, observation, tmp_path):
    env = Aim(observation=observation)
    small = dict(n_steps=16, batch_size=16) if algorithm is PPO else dict(buffer_size=10)
    name = {"dict": "FlowMultiInputPolicy", "image": "FlowCnnPolicy"}[observation]
    kwargs = dict(net_arch=[8], flow="gaussian")
    if observation == "image":
        kwargs["features_extractor_kwargs"] = dict(features_dim=8)
    model = algorithm(name, env, policy_kwargs=kwargs, device="cpu", **small)
    obs = states(env)
    tensors, _ = model.policy.obs_to_tensor(obs)
    inputs = tensors if isinstance(tensors, dict) else dict(observation=tensors)
    (actions,) = run(to_onnx(model, tmp_path / "policy.onnx"), **inputs)
    assert_close(model.predict(obs, deterministic=True)[0], actions)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)], ids=str)
def test_numbers_of_a_set_become_codes_inside(space, tmp_path):
    policy = make(observation_space=space, flow="gaussian")
    space.seed(0)
    obs = np.stack([space.sample() for _ in range(5)])
    (actions,) = run(to_onnx(policy, tmp_path / "policy.onnx"), observation=obs)
    assert_close(policy.predict(obs, deterministic=True)[0], actions)


@pytest.mark.parametrize("output", ["action", "sample", "log_prob"])
def test_a_box_without_end_is_compared_at_moderate_observations(output, tmp_path, monkeypatch):
    """A box of the largest numbers is how older environments say that there are no bounds."""
    seen, compare = [], module._compare
    monkeypatch.setattr(
        module, "_compare", lambda part, graph, trials: seen.extend(trials) or compare(part, graph, trials)
    )
    largest = np.finfo(np.float32).max
    space = spaces.Box(-largest, largest, (3,))
    to_onnx(make(observation_space=space, flow="gaussian"), tmp_path / "policy.onnx", output)
    assert len(seen) == 2 and all(0 < inputs["observation"].abs().max() < 10 for inputs in seen)


@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_normalisation_is_inside(observation, tmp_path):
    env = Aim(observation=observation)
    name = "FlowPolicy" if observation == "vector" else "FlowMultiInputPolicy"
    vec = VecNormalize(DummyVecEnv([lambda: env]))
    small = dict(net_arch=[8], flow="gaussian")
    wrapped = PPO(name, vec, n_steps=16, batch_size=16, policy_kwargs=small, device="cpu").learn(32)
    own = NFAC(
        name, env, policy_kwargs=small | dict(normalize_observations=True), buffer_size=99, learning_starts=50
    ).learn(20)
    obs = states(env)
    inputs = obs if isinstance(obs, dict) else dict(observation=obs)
    for model, seen in ((wrapped, vec.normalize_obs(obs)), (own, obs)):
        (actions,) = run(to_onnx(model, tmp_path / "policy.onnx"), **inputs)
        assert_close(model.predict(seen, deterministic=True)[0], actions)


@pytest.mark.parametrize("save", [to_onnx, save_policy])
@pytest.mark.parametrize("wrap", [partial(VecFrameStack, n_stack=2), partial(VecExtractDictObs, key="state")])
def test_normalisation_of_other_observations_than_the_policys_is_refused(wrap, save, tmp_path):
    env = Aim(observation="dict") if wrap.func is VecExtractDictObs else Aim()
    vec = wrap(VecNormalize(DummyVecEnv([lambda: env])))
    with pytest.raises(ValueError, match="Put VecNormalize outermost"):
        save(PPO("FlowPolicy", vec, n_steps=16, device="cpu"), tmp_path / "policy")


def test_a_policy_with_noise_layers_gives_actions_and_densities_of_paths(tmp_path):
    model = SNF("FlowPolicy", Aim(), n_steps=16, batch_size=16, policy_kwargs=dict(net_arch=[8]), device="cpu")
    perturb(model.policy)
    obs, noise = observations(5), torch.randn(5, 4)
    (action,) = run(to_onnx(model, tmp_path / "policy.onnx"), observation=obs)
    assert_close(model.predict(obs.numpy(), deterministic=True)[0], action)
    path = to_onnx(model, tmp_path / "policy.onnx", "sample")
    assert [output.name for output in onnx.load(path).graph.output] == ["action", "path_log_prob"]
    action, _ = run(path, observation=obs, noise=noise)
    assert action.shape == (5, 2)
    with pytest.raises(ValueError, match="output='log_prob'.*noise layers.*'sample'"):
        to_onnx(model, tmp_path / "policy.onnx", "log_prob")


def test_the_model_says_what_goes_in_and_comes_out(tmp_path):
    model = onnx.load(to_onnx(make(), tmp_path / "policy.onnx", "sample"))
    said = json.loads({entry.key: entry.value for entry in model.metadata_props}["flowrl"])
    assert said["output"] == "sample" and said["flow"] == "triangular"
    assert "standard normal" in said["noise"] and "(batch, 2)" in said["noise"]
    assert said["action_space"]["low"] == [-2.0, 0.0]
    assert [given.name for given in model.graph.input] == ["observation", "noise"]
    assert all(given.type.tensor_type.shape.dim[0].dim_param == "batch" for given in model.graph.input)


def test_the_policy_itself_is_left_as_it_was(tmp_path):
    policy = make()
    policy.set_training_mode(True)
    before = torch.random.get_rng_state()
    to_onnx(policy, tmp_path / "policy.onnx", "sample")
    assert policy.training and all(parameter.requires_grad for parameter in policy.actor.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


# -- what does not export ----------------------------------------------------------------------------------------------


def test_an_adaptive_solver_is_refused_and_goes_with_the_other(tmp_path):
    pytest.importorskip("torchdiffeq")
    policy = build_policy(
        "SAC", flow="ffjord", flow_kwargs=dict(solver="dopri5"), features_extractor_class=FlattenExtractor
    )
    with pytest.raises(ValueError, match=r"flow='ffjord' with solver='dopri5'.*solver='rk4'"):
        to_onnx(policy, tmp_path / "policy.onnx")
    for layer in policy.actor.flow.layers:
        assert isinstance(layer, ContinuousLayer)
        layer.solver, layer.steps = "rk4", 2
    to_onnx(policy, tmp_path / "policy.onnx")


def test_flows_of_other_libraries_are_refused(tmp_path):
    zuko = pytest.importorskip("zuko")
    policy = build_policy(
        "SAC", flow=lambda d, context: zuko.flows.NSF(d, context), features_extractor_class=FlattenExtractor
    )
    with pytest.raises(ValueError, match="another library's.*take one of flowrl's recipes .triangular"):
        to_onnx(policy, tmp_path / "policy.onnx")


def test_a_list_of_transforms_goes_where_onnx_can(tmp_path):
    policy = make(flow=[Affine(torch.ones(2), torch.ones(2))])
    (actions,) = run(to_onnx(policy, tmp_path / "policy.onnx"), observation=observations(2))
    assert_close(policy.predict(observations(2).numpy(), deterministic=True)[0], actions)


def test_gaussian_policies_and_other_outputs_are_refused(tmp_path):
    model = SAC("MlpPolicy", Aim(), buffer_size=10, policy_kwargs=dict(net_arch=[8]))
    with pytest.raises(ValueError, match="flow policies, got a SACPolicy"):
        to_onnx(model, tmp_path / "policy.onnx")
    with pytest.raises(ValueError, match="output must be one of 'action', 'sample', 'log_prob', got 'actoin'"):
        to_onnx(make(), tmp_path / "policy.onnx", "actoin")


@pytest.mark.parametrize("output", ["action", "sample", "log_prob"])
def test_a_box_that_float32_does_not_resolve_is_refused(output, tmp_path):
    for low, width in ((1e6, 1e-3), (-1e300, 2e300)):
        box = spaces.Box(np.array([0.0, low]), np.array([1.0, low + width]), dtype=np.float64)
        policy = build_policy("SAC", action_space=box, features_extractor_class=FlattenExtractor)
        with pytest.raises(ValueError, match=r"float32, in which the box of actions has another width at index \[1\]"):
            to_onnx(policy, tmp_path / "policy.onnx", output)
    assert not list(tmp_path.iterdir())
    box = spaces.Box(np.array([0.0, 1e3]), np.array([1.0, 1e3 + 1]), dtype=np.float64)
    to_onnx(build_policy("SAC", action_space=box, features_extractor_class=FlattenExtractor), tmp_path / "p", output)
    box = spaces.Box(-1e300, 1e300, (2,), dtype=np.float64)
    clipped = build_policy("PPO", action_space=box, squash_output=False, features_extractor_class=FlattenExtractor)
    to_onnx(clipped, tmp_path / "p", "action")


def test_an_observation_by_the_name_of_an_output_is_refused(tmp_path):
    parts = spaces.Dict(action=spaces.Box(-1.0, 1.0, (2,)), noise=spaces.Box(-1.0, 1.0, (2,)))
    env = Spaces(parts, Aim().action_space)
    model = SAC("FlowMultiInputPolicy", env, buffer_size=10, policy_kwargs=dict(net_arch=[8]), device="cpu")
    with pytest.raises(ValueError, match="has the key 'action', 'noise'"):
        to_onnx(model, tmp_path / "policy.onnx")


def test_a_model_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_difference", lambda ours, theirs: 1e-3)
    with pytest.raises(ValueError, match="action differs from torch's by 1.0e-03.*nothing was written"):
        to_onnx(make(), tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_the_guide_s_table_is_this_list():
    rows = [f"| `{flow}` | {sample} | {log_prob} |" for flow, (sample, log_prob) in ONNX_FLOWS.items()]
    guide = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    table = guide.split("<!-- onnx -->\n")[1].split("<!-- /onnx -->")[0].splitlines()
    assert table[2:] == rows
