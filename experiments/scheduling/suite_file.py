"""What a suite trains: agents x environments x seeds, read from a small YAML file.

::

    steps: 200_000
    seeds: 5                      # 0 to 4; or a list
    environments: [HalfCheetah, Hopper]
    run: {eval_every: 10000}      # options of run.py for all
    agents:
      flow-sac:                   # an agent of run.py by this name ...
      flow-sac-gaussian:          # ... or a name, and what it stands for
        agent: flow-sac
        flow: gaussian
        set: {learning_starts: 5000, policy_kwargs.net_arch: [256, 256]}
        environments: [Hopper]    # where it is not in all of them; seeds and steps likewise

An environment may have options of run.py, and a name of its own::

    environments:
      corridor-2: {env: flowrl/Corridor, env_set: {dimensions: 2}, eval_episodes: 1000}
"""

import argparse
import math
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from experiments.run import natural, parse_arguments
from experiments.scheduling.job import Job
from experiments.training.config_file import read_yaml, words_of
from experiments.training.errors import UsageError, did_you_mean

OF_SUITE = ("name", "steps", "seeds", "environments", "run", "agents", "checkpoint_every")
OF_AGENT = ("agent", "flow", "set", "env_set", "plain", "environments", "seeds", "steps", "run")
# What the suite itself says of a run.
NOT_IN_RUN = (
    "env",
    "agent",
    "seed",
    "steps",
    "logdir",
    "resume",
    "config",
    "checkpoint_every",
    "flow",
    "set",
    "env_set",
)
CHECKPOINT_EVERY = 50_000


@dataclass(frozen=True)
class Entry:
    """
    One run of a suite.

    :param agent: the name that the suite gives it
    :param environment: likewise
    :param env: the environment as ``run.py --env`` takes it
    :param seed: of everything
    :param job: that trains it
    """

    agent: str
    environment: str
    env: str
    seed: int
    job: Job = field(compare=False)


def name_of(entry: Entry) -> str:
    """What tells a run from the others of its suite."""
    return f"{entry.agent}, {entry.environment}, seed {entry.seed}"


def command_of(entry: Entry) -> str:
    """What trains it, for a reader."""
    return shlex.join(["python", "experiments/run.py", *entry.job.arguments, *entry.job.steps_words()])


@dataclass(frozen=True)
class Suite:
    """
    A suite.

    :param name: of its results, and of the directory of its runs
    :param entries: in the order in which they are trained
    """

    name: str
    entries: list[Entry]


def read_suite(path: Path, runs: Path, overrides: dict[str, Any] | None = None) -> Suite:
    """
    Read a suite: all agents and environments of the first seed come before those of the second.

    :param path: the YAML file
    :param runs: under which the runs of all suites go
    :param overrides: ``steps``, ``seeds``, ``environments`` and ``agents`` (names), in place of the file's
    :return: the suite
    :raises UsageError: for a file that is none, and for anything in it that is not understood
    """
    content = _mapping(read_yaml(path), "a suite", OF_SUITE, path)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    agents = {
        str(name): _mapping(value or {}, f"agents: {name}", OF_AGENT, path)
        for name, value in _mapping(content.get("agents"), "agents", None, path).items()
    }
    chosen = given.get("agents", list(agents))
    for name in chosen:
        if name not in agents:
            raise UsageError(f"{path} has no agent {name!r}: {did_you_mean(name, agents)}")
    name = _file_name(str(content.get("name", path.stem)))
    # A mapping names every environment that there is; beside a list, an agent may have others.
    all_named = isinstance(content.get("environments"), dict)
    options = _environments(content["environments"], path) if "environments" in content else {}
    if options:
        content["environments"] = list(options)
    entries = []
    for label in chosen:
        own = content | agents[label] | given
        for key in ("seeds", "environments"):
            if key not in own:
                raise UsageError(f"{path}: {label} has no {key}")
        environments = [str(environment) for environment in _list(own["environments"], "environments", path)]
        # What is given on the command line is a choice from the agent's own environments.
        allowed = agents[label].get("environments", content.get("environments", environments))
        for environment in [one for one in environments if one in allowed]:
            if all_named and environment not in options:
                raise UsageError(
                    f"{path}: {label}: no environment {environment!r}; {did_you_mean(environment, options)}"
                )
            of_environment = options.get(environment, dict(env=environment))
            for seed in seeds_of(own["seeds"], path):
                words = _words(label, of_environment, seed, content.get("run", {}), agents[label], path)
                directory = runs / name / _file_name(label) / _file_name(environment) / f"seed{seed}"
                every = _whole(content.get("checkpoint_every", CHECKPOINT_EVERY), "checkpoint_every", path, at_least=0)
                steps = None if own.get("steps") is None else _whole(own["steps"], "steps", path)
                job = Job(directory, tuple(words), steps, every)
                entries.append(Entry(label, environment, of_environment["env"], seed, job))
    named = {entry.environment for entry in entries}
    for environment in given.get("environments", []):
        if environment not in named:
            known = [one for label in chosen for one in (content | agents[label]).get("environments", [])]
            raise UsageError(f"{path} has no environment {environment!r}: {did_you_mean(environment, map(str, known))}")
    order = {environment: i for i, environment in enumerate(dict.fromkeys(e.environment for e in entries))}
    entries.sort(key=lambda entry: (entry.seed, order[entry.environment]))
    if len({entry.job.directory for entry in entries}) < len(entries):
        raise UsageError(f"{path}: two agents or environments have names that differ in punctuation alone")
    return Suite(name, entries)


def seeds_of(value: Any, path: Path) -> list[int]:
    """
    :param value: how many (also as text, which a command line gives), a list, or a range as ``"0..4"``
    :param path: of the file, for the error
    :return: the seeds
    """
    if isinstance(value, str) and (ends := re.fullmatch(r"(\d+)\.\.(\d+)", value)):
        if int(ends[2]) < int(ends[1]):
            raise UsageError(f"{path}: there are no seeds {value}: the last is below the first")
        return list(range(int(ends[1]), int(ends[2]) + 1))
    if isinstance(value, list) and value and all(isinstance(one, int) and one >= 0 for one in value):
        if len(set(value)) < len(value):
            raise UsageError(f"{path}: a seed stands twice in {value}")
        return value
    return list(range(_whole(value, "seeds", path)))


def _environments(value: Any, path: Path) -> dict[str, dict[str, Any]]:
    """Each one's options of ``run.py``, ``env`` among them."""
    if not isinstance(value, dict):
        return {str(environment): dict(env=str(environment)) for environment in _list(value, "environments", path)}
    every: dict[str, dict[str, Any]] = {}
    for name, given in value.items():
        what = f"environments: {name}"
        options = dict(_mapping({} if given is None else given, what, None, path))
        env, env_set = options.pop("env", str(name)), options.pop("env_set", None) or {}
        if not isinstance(env, str) or not env or str(name) in every:
            raise UsageError(f"{path}: {what} must have a name of its own, and an env, got {given!r}")
        env_set = _mapping(env_set, f"{what}: env_set", None, path)
        every[str(name)] = dict(env=env, env_set=env_set, run=_run(options, what, path))
    if not every:
        raise UsageError(f"{path}: environments must have at least one")
    return every


def _words(
    label: str, environment: dict[str, Any], seed: int, shared: dict[str, Any], own: dict[str, Any], path: Path
) -> list[str]:
    """The arguments of ``run.py``; what is said of an agent wins over what is of its environment, and that of all."""
    what = {key: own[key] for key in ("flow", "set", "plain") if own.get(key)}
    options = dict(env=environment["env"], agent=own.get("agent", label), seed=seed) | what
    env_set = environment.get("env_set", {}) | _mapping(own.get("env_set") or {}, f"{label}: env_set", None, path)
    if env_set:
        options["env_set"] = env_set
    options |= _run(shared or {}, "run", path) | environment.get("run", {}) | _run(own.get("run") or {}, "run", path)
    try:
        return words_of(options)
    except UsageError as error:
        raise UsageError(f"{path}: agents: {label}: {error}") from None


def _run(options: Any, what: str, path: Path) -> dict[str, Any]:
    """Options of ``run.py`` by one spelling."""
    result = {}
    for key, value in _mapping(options, what, None, path).items():
        name = str(key).replace("-", "_")
        if name in NOT_IN_RUN:
            raise UsageError(f"{path}: {what} may not say {key!r}: the suite does, or the agent")
        if name not in _options():
            raise UsageError(f"{path}: {what}: run.py has no option {key!r}: {did_you_mean(name, _options())}")
        result[name] = value
    return result


@cache
def _options() -> tuple[str, ...]:
    """The names of the options of ``run.py`` that a suite may give."""
    names = ("from" if name == "source" else name for name in vars(parse_arguments(["--list"])))
    return tuple(name for name in names if name not in (*NOT_IN_RUN, "list"))


def _mapping(value: Any, what: str, keys: tuple[str, ...] | None, path: Path) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {what} must be a mapping (key: value), got {value!r}")
    for key in value:
        if keys is not None and key not in keys:
            raise UsageError(f"{path}: {what} has no {key!r}: {did_you_mean(str(key), keys)}")
    return value


def _list(value: Any, what: str, path: Path) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{path}: {what} must be a list with at least one item, got {value!r}")
    return value


def _whole(value: Any, what: str, path: Path, at_least: int = 1) -> int:
    number = value
    if isinstance(value, str):  # YAML reads 1e3 as text
        with suppress(argparse.ArgumentTypeError):
            number = natural(value)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    if not is_number or number != int(number) or number < at_least:
        raise UsageError(f"{path}: {what} must be a whole number of at least {at_least}, got {value!r}")
    return int(number)


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text)
