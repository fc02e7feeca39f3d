"""From an environment's name as people type it to vectorised environments that Stable-Baselines3 can train in."""

import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

import flowrl  # noqa: F401  registers its environments
from experiments.training.errors import TrainingError, UsageError, did_you_mean
from experiments.training.overrides import parse
from experiments.training.pool import Pool
from experiments.training.workers import Workers
from experiments.training.worlds import world_of


@dataclass(frozen=True)
class Environment:
    """
    A resolved environment.

    :param id: the full Gymnasium id, with its module where the user named one
    :param kwargs: what ``gymnasium.make`` needs beside the id
    :param name: the short name, without version, Gymnasium's and flowrl's without namespace: the key of the tables of
        hyperparameters
    """

    id: str
    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Environment":
        """
        The environment of a run.

        :param config: the run's configuration
        :return: its environment
        :raises UsageError: where the configuration has been damaged
        """
        try:
            environment = cls(**config["environment"])
        except TypeError as error:  # a key too many, or too few
            message = str(error).removeprefix(f"{cls.__name__}.__init__() ")
            raise UsageError(f"the run's config.json is damaged (its environment: {message})") from None
        # JSON has lists for tuples, and text for every key: what was typed says which it was
        return with_options(environment, config.get("arguments", {}).get("env_set") or ())


def find_environment(name: str) -> Environment:
    """
    Resolve a short name (``HalfCheetah``), a full id (``HalfCheetah-v4``) or ``module:Id``.

    :param name: what the user typed
    :return: the environment; a short name gives the newest registered version
    """
    module, _, local_name = name.rpartition(":")
    world = world_of(local_name)
    if world is not None and not module:
        module = world.module
    if world is not None and module == world.module and not world.installed:
        raise UsageError(f"--env {name} needs the {world.extra!r} extra: {world.command}")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            cure = f"if its file is in this folder, run PYTHONPATH={shlex.quote(os.getcwd())} python ..."
            raise UsageError(f"--env {name}: cannot import the module {module!r} ({error}); {cure}") from None
    prefix = f"{module}:" if module else ""

    exact = {registered.lower(): spec for registered, spec in gym.registry.items()}
    if local_name.lower() in exact:
        spec = exact[local_name.lower()]
        return Environment(prefix + spec.id, _key(spec))
    newest = _newest_versions()
    if local_name.lower() in newest:
        spec = newest[local_name.lower()]
        return Environment(prefix + spec.id, _key(spec))
    # The continuous LunarLander is an id of its own in some versions of Gymnasium, an argument in others.
    if local_name.lower() == "lunarlandercontinuous" and "lunarlander" in newest:
        return Environment(newest["lunarlander"].id, "LunarLanderContinuous", dict(continuous=True))
    versioned = re.search(r"-v\d+$", local_name) is not None
    valid = gym.registry if versioned else [_short_name(spec) for spec in newest.values()]
    raise UsageError(f"unknown environment {name!r}: {did_you_mean(local_name, valid)}")


def with_options(environment: Environment, options: Iterable[str]) -> Environment:
    """
    Lay ``key=value`` pairs over what ``gymnasium.make`` gets.

    :param environment: the environment
    :param options: ``tries=8``, ``goals=((5,0),(-5,0))``, ``max_episode_steps=100``, ...
    :return: the environment with them; :func:`make_environment` refuses those that it does not take
    """
    kwargs = dict(environment.kwargs)
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise UsageError(f"--env-set {option}: expected key=value, for example --env-set max_episode_steps=100")
        if key == "render_mode":
            raise UsageError("--env-set render_mode: training draws nothing; see evaluate.py RUN_DIR --video")
        kwargs[key] = parse(text)
    return replace(environment, kwargs=kwargs)


OWN = "flowrl/"  # the namespace that nobody needs to type
OF_TABLES = (None, "flowrl", "phys2d")  # namespaces of this library and of Gymnasium


def _short_name(spec: EnvSpec) -> str:
    return spec.name if spec.namespace is None else f"{spec.namespace}/{spec.name}"


def _key(spec: EnvSpec) -> str:
    """Of the tables of hyperparameters, whose rows are not those of somebody else's environment of the same name."""
    return spec.name if spec.namespace in OF_TABLES else _short_name(spec)


def _newest_versions() -> dict[str, EnvSpec]:
    """The newest version of every registered environment, by short name in lower case; flowrl's by either name."""
    newest: dict[str, EnvSpec] = {}
    for spec in gym.registry.values():
        name = _short_name(spec).lower()
        if name not in newest or (spec.version or 0) > (newest[name].version or 0):
            newest[name] = spec
    return {name.removeprefix(OWN): spec for name, spec in newest.items() if name.startswith(OWN)} | newest


def newest_ids(names: Iterable[str]) -> dict[str, str]:
    """
    What short names resolve to here.

    :param names: short names
    :return: the full id of each name that is registered
    """
    resolved = {}
    for name in names:
        try:
            resolved[name] = find_environment(name).id
        except UsageError:
            continue
    return resolved


def make_environment(environment: Environment, **kwargs: Any) -> gym.Env:
    """
    Make one environment, and refuse what no agent here can act in.

    :param environment: which one
    :param kwargs: further arguments of ``gymnasium.make`` (``render_mode``)
    :return: the environment
    """
    if ".mujoco." in _entry_point(environment) or environment.kwargs.get("family") == "half-cheetah":
        _silence_deprecation()
    try:
        env = gym.make(environment.id, **environment.kwargs, **kwargs)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise UsageError(_missing_package(environment, error)) from None
    except (AssertionError, AttributeError, RuntimeError) as error:
        world = world_of(environment.id.rpartition(":")[2])
        if world is not None and (reason := world.too_new()):
            raise UsageError(f"{environment.id} cannot be made: {reason}") from error
        if isinstance(error, AssertionError) and environment.kwargs:
            raise _refusal(environment, error) from error
        if isinstance(error, AssertionError) or "MUJOCO_GL" not in os.environ:
            raise
        setting = f"MUJOCO_GL={os.environ['MUJOCO_GL']}"
        raise UsageError(f"MuJoCo does not load with {setting} here ({error}); unset it, or try egl") from None
    except (TypeError, ValueError, OSError) as error:
        if not environment.kwargs:
            raise
        raise _refusal(environment, error) from error
    except gym.error.Error as error:
        raise UsageError(f"cannot make {environment.id}: {error}") from None
    env = without_scalars(env)
    space = env.action_space
    if not isinstance(space, spaces.Box):
        kind = type(space).__name__
        hint = "; LunarLanderContinuous has one" if environment.name == "LunarLander" else ""
        raise UsageError(
            f"{environment.id} has a {kind} action space; agents need continuous actions (a finite Box){hint}"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UsageError(f"{environment.id} has an unbounded action space; agents need a Box with finite bounds")
    return env


def check_options(env: gym.Env, environment: Environment) -> None:
    """
    Take a step, in which some environments use their options for the first time.

    :param env: the environment
    :param environment: which one
    :raises UsageError: where it has options and does not take the step
    """
    if not environment.kwargs:
        return
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        env.step(env.action_space.sample())
    except Exception as error:
        raise _refusal(environment, error) from error


def _refusal(environment: Environment, error: Exception) -> UsageError:
    given = ", ".join(f"{key}={value!r}" for key, value in environment.kwargs.items())
    # What gymnasium adds names the same arguments again
    reason = str(error).partition(" was raised from")[0].rstrip(".") or type(error).__name__
    return UsageError(f"--env-set: {environment.id} does not take {given}: {reason}")


def without_scalars(env: gym.Env) -> gym.Env:
    """
    Dictionaries of observations whose numbers of shape () have shape (1,): SB3 lays them side by side.

    :param env: any environment
    :return: the environment itself where it has no such number
    """
    space = env.observation_space
    if not isinstance(space, spaces.Dict):
        return env
    scalars = {key: box for key, box in space.items() if isinstance(box, spaces.Box) and box.shape == ()}
    if not scalars:
        return env
    rows = {key: spaces.Box(box.low[None], box.high[None], dtype=box.dtype) for key, box in scalars.items()}
    return gym.wrappers.TransformObservation(
        env,
        lambda observation: observation | {key: np.atleast_1d(observation[key]) for key in rows},
        spaces.Dict(dict(space.items()) | rows),
    )


def _silence_deprecation() -> None:
    """MuJoCo's warnings go to stderr as ever, but for that of an attribute in Gymnasium's own model of HalfCheetah."""
    try:
        mujoco = importlib.import_module("mujoco")
    except (ImportError, AttributeError, RuntimeError):
        return  # making the environment fails for the same reason, and is reported

    def show(message: str) -> None:
        if "settotalmass" not in message:
            print(f"WARNING: {message}", file=sys.stderr)

    mujoco.set_mju_user_warning(show)


def _entry_point(environment: Environment) -> str:
    module, _, local_id = environment.id.rpartition(":")
    if module:
        importlib.import_module(module)  # find_environment did, but perhaps in another process
    return str(gym.registry[local_id].entry_point)


def _missing_package(environment: Environment, error: Exception) -> str:
    """Name the extra of flowrl that brings what an environment needs."""
    entry_point = _entry_point(environment)
    # Versions for MuJoCo's first bindings: Gymnasium keeps their ids, and Gymnasium-Robotics, once imported, has them.
    if "_raise_mujoco_py_error" in entry_point or entry_point.startswith("gymnasium_robotics.envs.mujoco."):
        return f"{environment.id} is no longer part of Gymnasium: use {find_environment(environment.name).id}"
    for extra in ("mujoco", "box2d"):
        if f".{extra}." in entry_point:
            return f"{environment.id} needs the {extra!r} extra: pip install -e '.[{extra}]'"
    return f"{environment.id} cannot be made: {error}"


class CheckFinite(VecEnvWrapper):
    """
    Stop at the first observation or action that is not a finite number.

    It sits below ``VecNormalize``, whose running statistics one NaN would poison for good.

    :param venv: the environments
    """

    def step_async(self, actions: np.ndarray) -> None:
        if not np.isfinite(actions).all():
            raise NonFiniteAction("the policy gave an action that is NaN or infinite")
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._check(observations)
        for info in infos:
            if "terminal_observation" in info:
                self._check(info["terminal_observation"])
        if not np.isfinite(rewards).all():
            raise NonFiniteObservation("the environment gave a reward that is NaN or infinite")
        return observations, rewards, dones, infos

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._check(observations)
        return observations

    def _check(self, observations: VecEnvObs) -> None:
        assert not isinstance(observations, tuple), "Stable-Baselines3 has no policies for tuples of observations"
        named = observations if isinstance(observations, dict) else {"observation": observations}
        for name, values in named.items():
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
                raise NonFiniteObservation(f"the environment gave {name}[{where[-1]}] = {values[where]}")


class NonFiniteObservation(TrainingError):
    """The environment gave an observation or a reward that is NaN or infinite."""


class NonFiniteAction(TrainingError):
    """The policy gave an action that is NaN or infinite."""


VEC_ENVS: dict[str, Callable[[list[Callable[[], gym.Env]]], VecEnv]] = {
    "dummy": DummyVecEnv,
    "subproc": Workers,
}
"""How copies of an environment are stepped, as Stable-Baselines3 calls it: in turn, or each in its own process."""
POOL = "envpool"
"""The third way: in threads, by EnvPool, which makes them itself."""


def make_vector_environment(
    environment: Environment,
    n_envs: int,
    normalize: bool,
    gamma: float,
    training: bool = True,
    vec_env: str = "dummy",
    **kwargs: Any,
) -> VecEnv:
    """
    Several copies of an environment, wrapped as training and evaluation need them.

    :param environment: which one
    :param n_envs: how many copies
    :param normalize: whether to normalise observations and rewards by running statistics
    :param gamma: the discount of the return by whose spread rewards are scaled
    :param training: False for evaluation: the statistics stand still and rewards are left as they are
    :param vec_env: a key of :data:`VEC_ENVS`, or :data:`POOL`
    :param kwargs: further arguments of ``gymnasium.make``
    :return: the vectorised environment
    """
    if vec_env == POOL:
        venv: VecEnv = Pool(environment.id, n_envs, environment.kwargs | kwargs)
    else:
        venv = VEC_ENVS[vec_env]([lambda: Monitor(make_environment(environment, **kwargs)) for _ in range(n_envs)])
    venv = CheckFinite(venv)
    if normalize:
        # Images have their own scaling; VecNormalize is for vectors of floats.
        is_vector = isinstance(venv.observation_space, spaces.Box) and not is_image_space(venv.observation_space)
        venv = VecNormalize(venv, training=training, norm_obs=is_vector, norm_reward=training, gamma=gamma)
    # As every algorithm does with its own: images become channels-first.
    return BaseAlgorithm._wrap_env(venv)
