"""SNF: what its rollouts hold, that it is its base without noise layers, that it trains, saves and goes on."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import flowrl
from flowrl.algorithms import PPO, SNF
from flowrl.algorithms.snf import PathRolloutBuffer, on_base
from tests.environments import Aim
from tests.models import HAS_KERNELS

SETTINGS = {
    "ppo": dict(n_steps=32, batch_size=32, n_epochs=2),
    "a2c": dict(n_steps=16),
    "trpo": dict(n_steps=32, batch_size=32, n_critic_updates=2, cg_max_steps=4),
}
PARENTS = {"ppo": PPO, "a2c": A2C, "trpo": TRPO}


def snf(base="ppo", env=None, policy="FlowPolicy", policy_kwargs=None, **kwargs):
    env = env or make_vec_env(Aim, 2, seed=0)
    policy_kwargs = dict(net_arch=[16], flow="nsf", flow_kwargs=dict(hidden=(16,))) | (policy_kwargs or {})
    settings = SETTINGS[base] | dict(seed=0, device="cpu") | kwargs
    return SNF(policy, env, base=base, policy_kwargs=policy_kwargs, **settings)


def weights(model):
    return model.policy.state_dict()


@pytest.mark.parametrize("form", [pytest.param("C", marks=pytest.mark.skipif(not HAS_KERNELS, reason="no C")), "torch"])
@pytest.mark.parametrize("flow", ["triangular", "nsf"])
def test_without_noise_layers_it_is_flow_ppo_to_the_bit(flow, form):
    models = []
    for make in (PPO, SNF):
        noise = dict(noise_layers=0) if make is SNF else {}
        model = make(
            "FlowPolicy",
            make_vec_env(Aim, 2, seed=0),
            policy_kwargs=dict(net_arch=[16], flow=flow, **noise),
            **SETTINGS["ppo"],
            ent_coef=0.01,
            seed=0,
            device="cpu",
        )
        if form == "torch":
            model.choose_update = lambda: None
        models.append(model.learn(128))
        assert form == "torch" or model.update_form == "C", model.update_reason
    ours, theirs = map(weights, reversed(models))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    logs = [{k: v for k, v in m.logger.name_to_value.items() if k.startswith("train/")} for m in models]
    assert logs[0] == logs[1] and logs[0]
    obs = np.zeros((4, 3), np.float32)
    for deterministic in (False, True):
        actions = []
        for model in models:
            torch.manual_seed(0)
            actions.append(model.predict(obs, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize("base", ["a2c", "trpo"])
def test_without_noise_layers_it_is_its_base_to_the_bit(base):
    kwargs = dict(net_arch=[16], flow="nsf")
    theirs = PARENTS[base](
        "FlowPolicy", make_vec_env(Aim, 2, seed=0), policy_kwargs=dict(kwargs), **SETTINGS[base], seed=0, device="cpu"
    ).learn(64)
    ours = SNF(
        "FlowPolicy",
        make_vec_env(Aim, 2, seed=0),
        base=base,
        policy_kwargs=kwargs | dict(noise_layers=0),
        **SETTINGS[base],
        seed=0,
        device="cpu",
    ).learn(64)
    assert all(torch.equal(ours.policy.state_dict()[name], value) for name, value in weights(theirs).items())


class Recorder(Aim):
    """Remembers what it was asked to do."""

    def reset(self, **kwargs):
        self.taken = getattr(self, "taken", [])
        return super().reset(**kwargs)

    def step(self, action):
        self.taken.append(np.array(action))
        return super().step(action)


@pytest.mark.parametrize("squash_output", [True, False])
@pytest.mark.parametrize("base", PARENTS)
def test_the_rollout_holds_the_path_of_every_action(base, squash_output):
    """Also after the buffer went through a file."""
    env = Recorder()
    model = snf(base, env, policy_kwargs=dict(noise_layers=2, squash_output=squash_output))
    n = model.n_steps
    model.learn(n)
    buffer = pickle.loads(pickle.dumps(model.rollout_buffer))
    taken = np.array(env.taken[-n:])
    paths = buffer.actions.reshape(n, 6)
    np.testing.assert_array_equal(model.policy.unscale_action(paths), taken)
    if squash_output:
        low, high = env.action_space.low, env.action_space.high
        scaled = low + (np.tanh(paths[:, -2:].astype(np.float64)) + 1) / 2 * (high - low)
        np.testing.assert_allclose(taken, scaled, atol=1e-5)
    else:
        np.testing.assert_array_equal(taken, np.clip(paths[:, -2:], env.action_space.low, env.action_space.high))


def test_the_first_minibatch_has_a_ratio_of_one():
    model = snf(n_epochs=1, batch_size=64, ent_coef=0.01)
    model.learn(64)
    logged = model.logger.name_to_value
    assert logged["train/clip_fraction"] == 0 and abs(logged["train/approx_kl"]) < 1e-6
    assert model.update_form == "torch"
    assert not HAS_KERNELS or "layers that the kernel does not know" in model.update_reason


@pytest.mark.slow
@pytest.mark.parametrize("base", PARENTS)
def test_it_learns(base):
    """Aim at a point that the observation tells; an untrained policy earns -0.75 or so a step."""
    settings = dict(
        ppo=dict(n_steps=64, batch_size=64, n_epochs=8, learning_rate=3e-3),
        a2c=dict(n_steps=16, learning_rate=5e-3),
        trpo=dict(n_steps=64, batch_size=64, target_kl=0.05, n_critic_updates=4, learning_rate=5e-3),
    )[base]
    model = snf(base, make_vec_env(Aim, 8, seed=0), gamma=0.5, **settings)
    env = make_vec_env(Aim, 4, seed=1)
    before, _ = evaluate_policy(model, env, 40, deterministic=False)
    model.learn(dict(ppo=6_000, a2c=12_000, trpo=8_000)[base])
    after, _ = evaluate_policy(model, env, 40, deterministic=False)
    assert after > 0.75 * before, f"{before} -> {after}"


@pytest.mark.parametrize("base", PARENTS)
def test_save_load_and_go_on(base, tmp_path):
    model = snf(base, policy_kwargs=dict(noise_layers=2)).learn(64)
    model.save(tmp_path / "model")
    env = make_vec_env(Aim, 2, seed=0)
    loaded = SNF.load(tmp_path / "model", env=env, device="cpu")
    assert type(loaded) is type(model) is on_base(base) and loaded.base == base
    assert isinstance(loaded, SNF) and isinstance(loaded, PARENTS[base])
    assert all(torch.equal(weights(loaded)[name], value) for name, value in weights(model).items())
    assert isinstance(loaded.rollout_buffer, PathRolloutBuffer)
    obs = np.zeros((3, 3), np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128 and loaded._n_updates > model._n_updates
    # Whichever class of SNF is asked
    assert type(on_base("ppo").load(tmp_path / "model", device="cpu")) is on_base(base)


@pytest.mark.parametrize("noise_layers", [0, 1])
def test_dictionaries_of_observations(noise_layers):
    env = make_vec_env(lambda: Aim(observation="dict"), 2, seed=0)
    model = snf(env=env, policy="FlowMultiInputPolicy", policy_kwargs=dict(noise_layers=noise_layers)).learn(64)
    assert isinstance(model.rollout_buffer, DictRolloutBuffer)
    action, _ = model.predict(env.reset())
    assert action.shape == (2, 2)


def test_images():
    env = make_vec_env(lambda: Aim(observation="image"), 1, seed=0)
    model = snf(env=env, policy="FlowCnnPolicy", n_epochs=1).learn(32)
    assert model.predict(env.reset())[0].shape == (1, 2)


def test_with_normalisation_and_the_librarys_callbacks():
    env = VecNormalize(make_vec_env(Aim, 2, seed=0))
    model = snf(env=env)
    callbacks = [flowrl.FlowLogger(every=64), flowrl.DensityFigure(every=64)]
    model.learn(128, callback=callbacks, log_interval=1_000)  # hence nothing is written, and all is still there
    logged = model.logger.name_to_value
    assert np.isfinite(logged["flow/entropy_bound"]) and "flow/entropy" not in logged
    assert "flow/action_density" in logged and logged["flow/noise_std"] > 0
    assert logged["train/grad_norm_actor"] > 0


def test_the_backward_kernel_learns_from_the_bonus_alone():
    for ent_coef, moves in ((0.0, False), (0.01, True)):
        model = snf(ent_coef=ent_coef)
        noise = next(layer for layer in model.policy.action_net.layers if hasattr(layer, "output_layer"))
        before = noise.output_layer.weight.clone()
        model.learn(64)
        assert torch.equal(before, noise.output_layer.weight) != moves


@pytest.mark.parametrize("noise_layers", [-2, 1.5, "2", None, True])
def test_noise_layers_are_a_whole_number(noise_layers):
    with pytest.raises(ValueError, match="noise_layers must be a whole number of at least 0"):
        SNF("FlowPolicy", "Pendulum-v1", policy_kwargs=dict(noise_layers=noise_layers))


def test_numpys_numbers_are_numbers():
    kwargs = dict(flow="nsf", noise_layers=np.int64(2), noise_std=np.float32(0.5))
    model = SNF("FlowPolicy", "Pendulum-v1", n_steps=8, batch_size=8, policy_kwargs=kwargs)
    assert model.learn(8).policy.noise_layers == 2


def test_an_unknown_base_is_refused():
    with pytest.raises(ValueError, match="base must be 'ppo', 'a2c' or 'trpo', got 'sac'"):
        SNF("FlowPolicy", Aim(), base="sac")
    with pytest.raises(ValueError, match="SNFOnA2C is of base='a2c', got base='ppo'"):
        on_base("a2c")("FlowPolicy", Aim(), base="ppo")


def test_trpo_without_its_package_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="base='trpo' needs sb3-contrib: pip install"):
        SNF("FlowPolicy", Aim(), base="trpo")


def test_a_saved_model_keeps_its_base(tmp_path):
    snf("a2c").save(tmp_path / "model")
    assert SNF.load(tmp_path / "model", base="a2c").base == SNF.load(tmp_path / "model", base=None).base == "a2c"
    with pytest.raises(ValueError, match="is of base='a2c', got base='ppo'"):
        SNF.load(tmp_path / "model", base="ppo")


class OfAnotherVersion:
    def __reduce__(self):
        return int, ("no number",)


def test_what_custom_objects_replace_is_not_read(tmp_path):
    model = snf()
    model.note = OfAnotherVersion()
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SNF.load(tmp_path / "model", device="cpu", custom_objects=dict(note="replaced")).note == "replaced"


def test_a_buffer_of_paths_serves_without_noise_layers():
    model = snf(rollout_buffer_class=PathRolloutBuffer, policy_kwargs=dict(noise_layers=0)).learn(64)
    assert model.rollout_buffer.actions.shape[-1] == 2


def test_a_buffer_without_room_for_paths_is_refused():
    with pytest.raises(ValueError, match="rollout_buffer_class=RolloutBuffer has no room for paths"):
        snf(rollout_buffer_class=RolloutBuffer)


def test_other_policies_are_refused():
    with warnings.catch_warnings(), pytest.raises(ValueError, match="Policy MlpPolicy unknown"):
        SNF("MlpPolicy", Aim())


def test_a_subclass_without_an_algorithm_is_told_what_to_derive_from():
    class Mine(SNF):
        pass

    with pytest.raises(TypeError, match="derive it from"):
        Mine("FlowPolicy", "Pendulum-v1")
