"""`FlowLogger`, `DensityFigure` and `TaskReturns` in people's own Stable-Baselines3 projects."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Figure, HParam, HumanOutputFormat, KVWriter, Logger
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import flowrl
from flowrl.algorithms import BehaviourCloning, Demonstrations, offline
from flowrl.algorithms.schedules import linear_schedule
from flowrl.callbacks import DensityFigure, FlowLogger, TaskReturns, hyperparameters, parameter_groups
from flowrl.envs.multi_task import MultiTask
from flowrl.policies.action_box import action_box
from flowrl.policies.density import action_log_prob, sample_actions
from tests.environments import Aim, Spaces

SMALL = {
    SAC: dict(learning_starts=8, batch_size=8, buffer_size=1_000),
    PPO: dict(n_steps=16, batch_size=16, n_epochs=2),
    A2C: dict(n_steps=8),
}


class Memory(KVWriter):
    """Keeps what is logged."""

    def __init__(self):
        self.records = []

    def write(self, key_values, key_excluded, step=0):
        self.records += [(step, key, value) for key, value in key_values.items()]

    def close(self):
        pass

    def values(self, key):
        return [value for _, name, value in self.records if name == key]


class DumpAtRolloutEnd(BaseCallback):
    def __init__(self, every):
        super().__init__()
        self.every = every

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        if self.num_timesteps % self.every == 0:
            self.logger.dump(self.num_timesteps)


def learn(algorithm, policy, callbacks, steps=32, env="Pendulum-v1", dump_every=8, **policy_kwargs):
    policy_kwargs = dict(net_arch=[16]) | policy_kwargs
    model = algorithm(policy, env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **SMALL[algorithm])
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(steps, callback=[*callbacks, DumpAtRolloutEnd(dump_every)], log_interval=None)
    return model, memory


@pytest.mark.parametrize("policy", ["FlowPolicy", "MlpPolicy"])
@pytest.mark.parametrize("algorithm", SMALL)
def test_what_is_logged(algorithm, policy):
    _, memory = learn(algorithm, policy, [FlowLogger(every=16)])
    names = ["flow/entropy", "flow/saturation", "time/steps_per_second"]
    names += ["train/grad_norm_actor", "train/grad_norm_critic"]
    if policy == "FlowPolicy":
        names += ["flow/log_det_min", "flow/log_det_max"]
    for name in names:
        assert memory.values(name) and np.isfinite(memory.values(name)).all(), name
    assert max(memory.values("flow/entropy")) <= np.log(2) + 0.3, "no density on [-1, 1] has more entropy than log 2"
    assert all(0 <= value <= 1 for value in memory.values("flow/saturation"))
    (hparams,) = memory.values("hparams")
    assert isinstance(hparams, HParam) and hparams.hparam_dict["algorithm"] == algorithm.__name__


@pytest.mark.parametrize(("every", "expected"), [(12, [12, 24, 36]), (0, [])])
def test_it_measures_as_often_as_it_is_told(every, expected):
    _, memory = learn(SAC, "FlowPolicy", [FlowLogger(every=every)], steps=40, dump_every=4)
    for name in ("flow/entropy", "time/steps_per_second"):
        assert [step for step, key, _ in memory.records if key == name] == expected
    assert bool(memory.values("train/grad_norm_actor")) == bool(every)
    assert memory.values("hparams")


def test_it_measures_over_the_last_states_of_all_environments(monkeypatch):
    found = []
    monkeypatch.setattr(flowrl.callbacks, "diagnose", lambda policy, obs: found.append(obs) or {})
    callback = FlowLogger(every=32, n_states=10)
    learn(PPO, "FlowPolicy", [callback], steps=64, env=make_vec_env("Pendulum-v1", 4))
    (obs,) = found
    assert np.array_equal(obs, np.concatenate(callback.recent)[-10:])


def test_they_can_be_used_again_with_other_observations():
    callbacks = [FlowLogger(every=8), DensityFigure(every=8)]
    for env in ("Pendulum-v1", Spaces(gym.spaces.Box(-1, 1, (5,)))):
        _, memory = learn(SAC, "FlowPolicy", callbacks, steps=8, env=env)
        assert memory.values("flow/entropy") and memory.values("flow/action_density")


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_logging_changes_nothing(algorithm):
    plain, _ = learn(algorithm, "FlowPolicy", [])
    logged, _ = learn(algorithm, "FlowPolicy", [FlowLogger(every=8), DensityFigure(every=16)])
    for first, second in zip(plain.policy.parameters(), logged.policy.parameters(), strict=True):
        assert torch.equal(first, second)


def test_gradient_norms_are_those_that_the_optimiser_gets(monkeypatch):
    model = SAC("FlowPolicy", "Pendulum-v1", seed=0, **SMALL[SAC], policy_kwargs=dict(net_arch=[16]))
    memory, norms = Memory(), []
    model.set_logger(Logger(None, [memory]))
    step = model.critic.optimizer.step

    def spy(*args, **kwargs):
        parameters = model.critic.parameters()
        norms.append(torch.stack([p.grad.norm() for p in parameters]).norm().item())
        return step(*args, **kwargs)

    monkeypatch.setattr(model.critic.optimizer, "step", spy)
    logger = FlowLogger(every=1)
    model.learn(20, callback=[logger, DumpAtRolloutEnd(1)], log_interval=None)
    # A dump comes before the update that follows it.
    assert memory.values("train/grad_norm_critic") == pytest.approx(norms[:-1])
    assert not model.critic.optimizer._optimizer_step_pre_hooks, "nothing stays behind on the optimiser"


@pytest.mark.parametrize("algorithm", SMALL)
def test_actor_and_critic_share_no_parameter_and_leave_none_out(algorithm):
    model = algorithm("FlowPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[16]))
    groups = parameter_groups(model)
    parameters = [parameter for _, named in groups for group in named.values() for parameter in group]
    optimised = [p for optimizer, _ in groups for group in optimizer.param_groups for p in group["params"]]
    assert len(set(map(id, parameters))) == len(parameters) and set(map(id, parameters)) == set(map(id, optimised))
    assert {name for _, named in groups for name in named} == {"actor", "critic"}


def test_a_discrete_policy_has_gradients_but_no_density():
    _, memory = learn(PPO, "MlpPolicy", [FlowLogger(every=16), DensityFigure(every=16)], env="CartPole-v1")
    assert memory.values("train/grad_norm_actor") and not memory.values("flow/entropy")
    assert not memory.values("flow/action_density")


def test_figures_come_at_every_multiple_and_show_the_same_states():
    callback = DensityFigure(every=10)
    _, memory = learn(SAC, "FlowPolicy", [callback])
    figures = memory.values("flow/action_density")
    assert len(figures) == 3 and all(isinstance(figure, Figure) for figure in figures)
    states = callback.states.copy()
    assert states.shape == (3, 3)
    learn(SAC, "FlowPolicy", [callback], steps=16)
    assert np.array_equal(callback.states, states)


def test_figures_normalise_their_states_as_training_does():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    callback = DensityFigure(every=20)
    _, memory = learn(SAC, "FlowPolicy", [callback], steps=24, env=env)
    assert memory.values("flow/action_density")
    assert np.allclose(callback.states[:, 0] ** 2 + callback.states[:, 1] ** 2, 1, atol=1e-5), "raw cosine and sine"


def test_dictionary_observations():
    env = gym.wrappers.FlattenObservation(gym.make("Pendulum-v1"))
    env = gym.wrappers.TransformObservation(
        env, lambda obs: {"pendulum": obs}, gym.spaces.Dict(pendulum=env.observation_space)
    )
    _, memory = learn(SAC, "FlowMultiInputPolicy", [FlowLogger(every=16), DensityFigure(every=16)], 24, env)
    assert memory.values("flow/entropy") and memory.values("flow/action_density")


def test_hyperparameters_are_plain_values():
    values = hyperparameters(
        SAC("FlowPolicy", "Pendulum-v1", gamma=0.9, policy_kwargs=dict(flow="radial", net_arch=[8]))
    )
    assert values["gamma"] == 0.9 and values["flow"] == "radial" and values["net_arch"] == "[8]"
    assert values["policy"] == "FlowPolicy" and all(
        isinstance(value, (bool, int, float, str)) for value in values.values()
    )


def test_hyperparameters_that_are_schedules_are_what_they_go_from_and_to():
    values = hyperparameters(PPO("FlowPolicy", "Pendulum-v1", learning_rate=linear_schedule("linear_1e-3_1e-5")))
    assert values["learning_rate"] == "0.001 to 1e-05" and values["clip_range"] == 0.2
    assert "clip_range_vf" not in values, "which is None"
    assert hyperparameters(SAC("FlowPolicy", "Pendulum-v1", learning_rate=lambda _: 1e-3))["learning_rate"] == 1e-3


@pytest.mark.parametrize(("algorithm", "policy"), [(SAC, "FlowPolicy"), (SAC, "MlpPolicy"), (PPO, "FlowPolicy")])
def test_densities_integrate_to_one_over_the_action_box(algorithm, policy):
    torch.manual_seed(0)
    model = algorithm(policy, "Pendulum-v1", policy_kwargs=dict(net_arch=[16]))
    obs = torch.zeros(1, 3)
    _, half = action_box(model.policy.action_space, next(model.policy.parameters()))
    cells = 20_000
    grid = (torch.arange(cells)[:, None] + 0.5) / cells * 2 * half - half
    with torch.no_grad():
        density = action_log_prob(model.policy, obs.expand(cells, -1), grid).exp()
        samples = sample_actions(model.policy, obs.expand(4_000, -1))
    assert (density.mean() * 2 * half).item() == pytest.approx(1, abs=2e-3)
    inside = density[(grid[:, 0] > 0)].sum() / density.sum()
    assert (samples > 0).float().mean().item() == pytest.approx(inside.item(), abs=0.03)
    assert samples.abs().max() <= half.max()


def test_returns_of_each_task_are_logged():
    tasks = {name: gym.make("Pendulum-v1", g=g, max_episode_steps=5) for name, g in (("moon", 1.6), ("earth", 9.8))}
    callback = TaskReturns(window=2)
    model, memory = learn(SAC, "FlowPolicy", [callback], env=MultiTask(tasks), steps=48)
    assert {name: len(episodes) for name, episodes in callback.episodes.items()} == dict(moon=2, earth=2)
    for task in tasks:
        last = [episode["return"] for episode in callback.episodes[task]]
        assert memory.values(f"tasks/{task}/return")[-1] == pytest.approx(np.mean(last))
    returns = {round(info["r"], 6) for info in model.ep_info_buffer}
    assert {round(e["return"], 6) for episodes in callback.episodes.values() for e in episodes} <= returns
    assert not memory.values("tasks/moon/success"), "Pendulum says nothing of success"
    _, memory = learn(SAC, "FlowPolicy", [TaskReturns()], steps=8)
    assert not any(key.startswith("tasks/") for _, key, _ in memory.records)


def test_success_may_be_said_of_some_episodes_alone():
    callback, memory = TaskReturns(), Memory()
    model, _ = learn(SAC, "FlowPolicy", [callback], steps=2)
    model.set_logger(Logger(None, [memory]))
    for said in ({"is_success": True}, {}):
        callback.locals = dict(infos=[dict(task="a", episode=dict(r=1.0), **said)])
        callback.on_step()
    assert model.logger.name_to_value["tasks/a/success"] == 1.0
    callback.locals = dict(infos=[dict(task="a", episode=dict(r=1.0), is_success=False)])
    callback.on_step()
    assert model.logger.name_to_value["tasks/a/success"] == 0.5


def test_names_of_tasks_that_do_not_fit_into_a_table_end_no_training(capsys):
    task, memory = "a pendulum on the moon, whose gravity is low", Memory()
    callback = TaskReturns()
    model, _ = learn(SAC, "FlowPolicy", [callback], steps=2)
    model.set_logger(Logger(None, [HumanOutputFormat(sys.stdout), memory]))
    for name in (task, "earth"):
        callback.locals = dict(infos=[dict(task=name, episode=dict(r=1.0), is_success=True)])
        callback.on_step()
    model.logger.dump()
    assert memory.values(f"tasks/{task}/return") == memory.values(f"tasks/{task}/success") == [1.0]
    table = capsys.readouterr().out
    assert "earth/return" in table and "moon" not in table


@pytest.mark.parametrize("name", ["RecurrentPPO", "ARS"])
def test_whose_distribution_is_not_understood_trains_all_the_same(name):
    algorithm = getattr(pytest.importorskip("sb3_contrib"), name)
    options = dict(n_steps=16, batch_size=8) if name == "RecurrentPPO" else dict(n_delta=1)
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "LinearPolicy"
    callbacks = [FlowLogger(every=8), DensityFigure(every=8), TaskReturns()]
    env = gym.make("Pendulum-v1", max_episode_steps=8)
    model = algorithm(policy, env, device="cpu", **options).learn(32, callback=callbacks)
    assert model.num_timesteps >= 32


@pytest.mark.parametrize("options", [dict(n_states=0), dict(n_states=2.5), dict(window=0)])
def test_numbers_of_nothing_are_refused_before_training(options):
    ((name, value),) = options.items()
    for callback in (TaskReturns,) if name == "window" else (FlowLogger, DensityFigure):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value}"):
            callback(**options)


def test_the_callbacks_are_public():
    assert flowrl.FlowLogger is FlowLogger and flowrl.DensityFigure is DensityFigure
    assert flowrl.TaskReturns is TaskReturns


def test_figures_of_stacked_frames_show_what_the_policy_sees():
    env = VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1")), 2)
    callback = DensityFigure(every=20)
    _, memory = learn(PPO, "FlowPolicy", [callback], steps=32, env=env)
    assert memory.values("flow/action_density") and callback.states.shape == (3, 6)


def test_who_learns_from_a_data_set_sees_its_states(monkeypatch):
    """Callbacks get them normalised, the figure shows them as they are, and SB3's log is written without episodes."""
    monkeypatch.setattr(offline, "LOG_EVERY", 80)
    observations = np.float32([50, 10, 0]) + np.float32([20, 1, 5]) * np.random.default_rng(0).normal(size=(200, 3))
    env, callback, logger = VecNormalize(make_vec_env(Aim)), DensityFigure(every=80), FlowLogger(every=20)
    model = BehaviourCloning("FlowPolicy", env, buffer_size=1, batch_size=8, policy_kwargs=dict(net_arch=[8]), seed=0)
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    model.imitate(Demonstrations(observations.astype(np.float32), np.zeros((200, 2), np.float32) + 1))
    model.learn(2 * offline.LOG_EVERY, callback=[callback, logger])
    assert len(memory.values("train/log_likelihood")) == len(memory.values("flow/entropy")) == 2
    np.testing.assert_allclose(np.concatenate(logger.recent).std(0), 1, rtol=0.3)
    assert len(np.unique(callback.states, axis=0)) == 3
    np.testing.assert_allclose(callback.states[:, 0], 50, atol=70)
    assert np.abs(callback.states[:, 0]).min() > 10
