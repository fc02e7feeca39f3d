"""``--set key=value``: any hyperparameter from the command line, checked against the constructors that take it."""

import ast
import inspect
import math
import types
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from torch import nn

from agents import Agent
from agents.hyperparameters import Hyperparameters
from experiments.training.config_file import with_numbers
from experiments.training.errors import UsageError, did_you_mean
from flowrl.algorithms.schedules import PREFIX, linear_schedule
from flowrl.flows.options import options_of
from flowrl.flows.recipes import find_flow
from flowrl.policies.action_box import refuse_noise_layers

# What the run itself decides (other flags), or what the environment does.
NOT_SETTABLE = {
    *("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "policy_kwargs"),
    *("_init_setup_model", "observation_space", "action_space", "lr_schedule"),
}
# By name, as in RL Baselines3 Zoo's files.
REPLAY_BUFFERS: dict[str, type] = {"HerReplayBuffer": HerReplayBuffer}
# Hyperparameters that are not an argument of the algorithm: see agents/hyperparameters.py.
OWN_KEYS: dict[str, Any] = {"normalize": bool}
FLAGS = dict(n_envs="--num-envs", steps="--steps", flow="--flow", seed="--seed", env="--env", device="--device")

Limit = tuple[str, Callable[[float], bool]]
AT_LEAST_ONE: Limit = ("at least 1", lambda number: number >= 1)
POSITIVE: Limit = ("greater than 0", lambda number: number > 0)
NOT_NEGATIVE: Limit = ("at least 0", lambda number: number >= 0)
FRACTION: Limit = ("between 0 and 1", lambda number: 0 <= number <= 1)
# What every number in a value must be.
LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("batch_size", "buffer_size", "n_steps", "n_epochs", "train_freq"), AT_LEAST_ONE),
    **dict.fromkeys(("target_update_interval", "stats_window_size"), AT_LEAST_ONE),
    **dict.fromkeys(("policy_kwargs.net_arch", "policy_kwargs.n_critics"), AT_LEAST_ONE),
    "gradient_steps": ("at least 1, or -1 for as many as steps were taken", lambda number: number >= 1 or number == -1),
    **dict.fromkeys(("learning_rate", "clip_range", "clip_range_vf", "max_grad_norm", "flow_lr_scale"), POSITIVE),
    **dict.fromkeys(("target_kl", "desired_kl"), POSITIVE),
    **dict.fromkeys(("learning_starts", "ent_coef", "vf_coef", "cql_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("tau", "gamma", "gae_lambda", "importance_floor"), FRACTION),
}


def agent_on_base(agent: Agent, overrides: Iterable[str]) -> Agent:
    """
    SNF on the algorithm that ``base=...`` names, whose hyperparameters are then those to override.

    :param agent: any agent
    :param overrides: ``base=a2c``, ``gamma=0.9``, ...
    :return: the agent, or SNF on its base
    """
    named = [override.partition("=")[2] for override in overrides if override.startswith("base=")]
    if agent.name != "snf" or not named:
        return agent
    try:
        return agent.based_on(named[-1])
    except ValueError as error:
        raise UsageError(f"--set base={named[-1]}: {error}") from None


def apply_overrides(
    settings: Hyperparameters, overrides: Iterable[str], agent: Agent, observation_space: spaces.Space
) -> Hyperparameters:
    """
    Lay ``key=value`` pairs over hyperparameters.

    :param settings: the hyperparameters of the table
    :param overrides: ``learning_starts=100``, ``policy_kwargs.net_arch=[64,64]``, ``policy_kwargs.flow_kwargs.bins=8``
    :param agent: whose algorithm and policy say which keys there are
    :param observation_space: it chooses the policy class
    :return: new hyperparameters
    """
    types_of = OWN_KEYS | constructor_types(agent.algorithm)
    policy_types = constructor_types(agent.policy_class(observation_space))
    types_of |= {f"policy_kwargs.{key}": annotation for key, annotation in policy_types.items()}
    result = deepcopy(settings)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UsageError(f"--set {override}: expected key=value, for example --set batch_size=512")
        path, _, name = key.rpartition(".")
        is_item = path in types_of and path.endswith("_kwargs")  # which whoever takes them knows
        if key not in types_of and not is_item:
            if path == "policy_kwargs":
                _refuse_noise_layers(name, text)
            raise UsageError(f"--set {key}: unknown key; {_hint(key, types_of)}")
        value = text if is_schedule(key, text) else convert(parse(text), Any if is_item else types_of[key], key)
        target = result
        for parent in path.split(".") if path else ():
            target[parent] = target.get(parent) or {}
            target = target[parent]
        target[name] = value
    if result.get("replay_buffer_class") is HerReplayBuffer:
        keys = set(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else set()
        if not {"observation", "achieved_goal", "desired_goal"} <= keys:
            raise UsageError(
                "--set replay_buffer_class=HerReplayBuffer: the environment's observations have no goals (a dictionary "
                "of observation, achieved_goal and desired_goal)"
            )
    return result


def _hint(key: str, keys: Iterable[str]) -> str:
    """Where a key that is none stands instead."""
    if key in FLAGS:
        return f"give {FLAGS[key]}"
    if f"policy_kwargs.{key}" in keys:
        return f"did you mean policy_kwargs.{key}?"
    return did_you_mean(key, keys)


def _refuse_noise_layers(name: str, text: str) -> None:
    """Say why an agent that is not SNF has no noise layers, where they are asked for."""
    try:
        refuse_noise_layers({name: parse(text)})
    except ValueError as error:
        raise UsageError(f"--set policy_kwargs.{error}") from None


def is_schedule(key: str, text: str) -> bool:
    """
    Whether a value is a learning rate that falls (or rises) as training goes on; a malformed one is refused.

    :param key: the hyperparameter
    :param text: ``linear_1e-3_1e-5``
    :return: whether it is
    """
    if key != "learning_rate" or not text.startswith(PREFIX):
        return False
    try:
        schedule = linear_schedule(text)
        if schedule.start <= 0 or schedule.end < 0:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--set {key}={text}: expected linear_FIRST_LAST, the first above 0 and the last at least 0"
        ) from None
    return True


def constructor_types(cls: type) -> dict[str, Any]:
    """
    The settable arguments of a constructor and of those that it passes ``**kwargs`` on to.

    :param cls: the class
    :return: every argument's annotation (``Any`` where there is none to check by)
    """
    result: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                unknown = parameter.annotation is parameter.empty or isinstance(parameter.annotation, str)
                result.setdefault(parameter.name, Any if unknown else parameter.annotation)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return {name: annotation for name, annotation in result.items() if name not in NOT_SETTABLE}


def parse(text: str) -> Any:
    """
    Read a value as Python would, or a mapping or a list as YAML has it; anything else is a string.

    :param text: ``100``, ``1e-3``, ``[64,64]``, ``{norm: layer}``, ``None``, ``auto``
    :return: the value
    """
    with suppress(ValueError, SyntaxError, TypeError):  # the last: {[1]: 2}
        return ast.literal_eval(text)
    with suppress(yaml.YAMLError):
        if text.startswith(("{", "[")):
            return with_numbers(yaml.safe_load(text))
    return text


def convert(value: Any, annotation: Any, key: str) -> Any:
    """
    Check a value against its annotation; an activation function may be given by its name in ``torch.nn``, and hindsight
    replay by that of its buffer.

    :param value: the parsed value
    :param annotation: the constructor's annotation
    :param key: for the error message
    :return: the value to pass
    """
    if annotation == type[nn.Module]:
        activation = getattr(nn, str(value), None)
        if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
            raise UsageError(f"--set {key}={value}: expected a class of torch.nn, for example ReLU or Tanh")
        return activation
    if key == "replay_buffer_class":
        if value is None:
            return None
        if str(value) not in REPLAY_BUFFERS:
            raise UsageError(f"--set {key}={value}: expected {' or '.join(REPLAY_BUFFERS)}, or None for SB3's own")
        return REPLAY_BUFFERS[value]
    if not _fits(value, annotation):
        raise UsageError(f"--set {key}={value}: expected {_describe(annotation)}, got {type(value).__name__}")
    words, holds = LIMITS.get(key, ("finite", math.isfinite))
    if not all(math.isfinite(number) and holds(number) for number in _numbers(value)):
        raise UsageError(f"--set {key}={value}: must be {words}")
    return value


def check_flow_options(flow: str, options: dict[str, Any]) -> None:
    """
    Refuse options that a flow's recipe does not have, or that are of another type.

    :param flow: the recipe's name
    :param options: ``policy_kwargs.flow_kwargs``
    """
    builder = find_flow(flow)
    parameters = options_of(builder)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    annotations = get_type_hints(builder)
    known = {parameter.name: annotations.get(parameter.name, Any) for parameter in parameters}
    known |= dict(context_gain=float, conditioner_gain=float, log_std_max=float)  # every flow's
    for name, value in options.items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"--set policy_kwargs.flow_kwargs: {flow} has no option {name!r}; {hint}")
        convert(value, known[name], f"policy_kwargs.flow_kwargs.{name}")


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (list, Sequence):
        kind = list if origin is list else (list, tuple)
        return isinstance(value, kind) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is not None or not isinstance(annotation, type):
        return False  # a callable or a class: nothing that a command line can say
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _numbers(value: Any) -> list[float]:
    """The numbers in a value: itself, or those in a list or dictionary."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _describe(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in get_args(annotation) if not _is_callable(argument))
    if annotation is None or annotation is type(None):
        return "None"
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _is_callable(annotation: Any) -> bool:
    return "Callable" in str(annotation)
