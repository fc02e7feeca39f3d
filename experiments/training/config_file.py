"""``run.py``'s options in a YAML file: the same names, with ``set`` and ``env_set`` as mappings.

::

    env: HalfCheetah
    agent: flow-sac
    steps: 200_000
    set:
      learning_rate: 0.001
      policy_kwargs.net_arch: [400, 300]
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from experiments.training.errors import UsageError, did_you_mean

MAPPINGS = ("set", "env_set")


def words_of(options: dict[str, Any]) -> list[str]:
    """
    The words of a command line.

    :param options: of ``run.py``, by their names (``eval_every`` or ``eval-every``); True for one without a value,
        which False and None leave out
    :return: ``["--env", "HalfCheetah", ...]``
    :raises UsageError: for a mapping that is none
    """
    words: list[str] = []
    for name, value in options.items():
        option = "--" + str(name).replace("_", "-")
        if str(name).replace("-", "_") in MAPPINGS:
            if not isinstance(value, dict):
                raise UsageError(f"{name} must be a mapping (key: value), got {value!r}")
            words += [word for key, item in _flat(value) for word in (option, f"{key}={with_numbers(item)}")]
        elif value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, str(value)]
    return words


def _flat(mapping: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """``policy_kwargs: {net_arch: [8]}`` is ``policy_kwargs.net_arch: [8]``; options of the flow are one value."""
    for key, value in mapping.items():
        if key == "policy_kwargs" and isinstance(value, dict):
            yield from ((f"{key}.{name}", item) for name, item in value.items())
        else:
            yield str(key), value


def with_numbers(value: Any) -> Any:
    """
    Lists and mappings as they would be typed: YAML reads 1e-5 as text.

    :param value: as YAML has read it; text by itself is typed as it is
    :return: with numbers for such text
    """
    if isinstance(value, dict):
        return {key: _number_or(item) for key, item in value.items()}
    return [_number_or(item) for item in value] if isinstance(value, list) else value


def _number_or(item: Any) -> Any:
    if isinstance(item, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+", item, re.IGNORECASE):
        return float(item)
    return with_numbers(item)


def read_config(path: Path, options: list[str]) -> list[str]:
    """
    Read a file.

    :param path: of YAML
    :param options: that there are, as ``["env", "env_set", ...]``
    :return: the words of the command line that it stands for
    :raises UsageError: for a file that is none
    """
    content = read_yaml(path)
    for key in content:
        if str(key).replace("-", "_") not in options:
            raise UsageError(f"{path}: run.py has no option {key!r}: {did_you_mean(str(key), options)}")
    try:
        return words_of(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_yaml(path: Path) -> dict[Any, Any]:
    """
    :param path: of a YAML file that holds a mapping
    :return: the mapping
    :raises UsageError: for anything else
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must be a mapping (key: value), got {content!r}")
    return content
