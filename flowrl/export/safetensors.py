"""Policies in safetensors files: tensors and a description in JSON, data alone. Opening one runs nothing of it."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device
from torch import Tensor

from flowrl.export.description import FORMAT, build, describe, policy_of, tensors_of
from flowrl.layers.gain import Gained

KEY = "flowrl"  # of the description in the file's header
MAX_DESCRIPTION = 2**23
"""Characters of JSON."""


def save_policy(model: BaseAlgorithm | BasePolicy, path: str | os.PathLike) -> Path:
    """
    Write a policy to one safetensors file, which holds data alone: no pickle, nothing that runs when it is opened.

    The file has the policy, its critics and the normalisation of its observations, be it the policy's own or that of
    the `VecNormalize` around a model's environment. It has no optimisers and no replay buffer: to go on with training,
    keep the model's zip file.

    :param model: a model or its policy
    :param path: the file, by custom named ``*.safetensors``; replaced if it is there
    :return: the path
    :raises ValueError: if the policy has something that is no data (a flow that was given as a builder or a list, a
        class of your own), naming the argument and the cure
    """
    policy, normalization = policy_of(model)
    description = describe(policy, normalization)
    text = json.dumps(description, allow_nan=False)
    if len(text) > MAX_DESCRIPTION:
        raise ValueError(
            f"The description of the policy takes {len(text):,} characters, more than {MAX_DESCRIPTION:,}: most of it "
            "will be the bounds of a space, or an argument of policy_kwargs."
        )
    tensors = tensors_of(policy)
    try:
        _check_tensors(tensors_of(_built(_parse(text), tensors)), tensors)
    except ValueError as error:
        raise ValueError(
            f"The policy would not open again, since it is not what its constructor makes of its arguments: {error}. "
            "A policy that was changed after it was built needs a class of its own, and flowrl.export.allow(cls)."
        ) from error
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contents, path, metadata={"format": "pt", KEY: text})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None
    return Path(path)


def load_policy(path: str | os.PathLike, device: torch.device | str = "auto") -> BasePolicy:
    """
    Open what :func:`save_policy` wrote.

    Nothing in the file is run: it names a class on flowrl's list, which flowrl then builds and fills with numbers.

    :param path: the file
    :param device: where the policy shall live
    :return: the policy, in evaluation: `predict`, `log_prob` and the rest of it give what they gave. To hand it on,
        hand on the file: the statistics of a `VecNormalize` are not part of what SB3's own `policy.save` writes
    :raises ValueError: if it is no such file, one of a newer version, or not whole; or names what is not allowed
    """
    device = get_device(device)
    try:
        description, tensors = _read(path)
        policy = _built(description, tensors)
        own = tensors_of(policy)
        tensors |= _gains_of_before(policy, own.keys() - tensors.keys())
        _check_tensors(own, tensors)
        policy.load_state_dict(tensors, strict=False)  # names that networks share stand there once
        return policy.to(device)
    except FileNotFoundError:
        raise ValueError(f"path={os.fspath(path)!r}: there is no such file.") from None
    except OSError as error:
        raise ValueError(f"path={os.fspath(path)!r} cannot be read: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} is no policy that can be opened: {error}.") from error


def _built(description: Any, tensors: dict[str, Tensor]) -> BasePolicy:
    """The policy, with whatever its constructor finds wrong in one sentence."""
    try:
        return build(description, sum(tensor.numel() for tensor in tensors.values()))
    except ValueError as error:
        raise ValueError(str(error).rstrip(".")) from error
    except Exception as error:  # a constructor takes what it is given in any way
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"its description builds no {str(description.get('policy'))[:40]} "
            f"({type(error).__name__}: {reason[0] if reason else ''})"
        ) from error


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise ValueError("it holds tensors, but not flowrl's description of them; save_policy writes one")
            description = _parse(text)
            return description, {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"it is no safetensors file, or a broken one ({error}). flowrl.export.save_policy writes them; a zip of "
            "Stable-Baselines3 is opened by the algorithm's load, if you trust its source"
        ) from error


def _parse(text: str) -> dict[str, Any]:
    if len(text) > MAX_DESCRIPTION:
        raise ValueError(f"its description takes {len(text):,} characters, more than {MAX_DESCRIPTION:,}")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its description is no JSON ({type(error).__name__})") from error
    version = description.get("format") if isinstance(description, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("its description does not say which format it has")
    if version > FORMAT:
        raise ValueError(f"it has format {version}, and this flowrl reads up to {FORMAT}: take a newer flowrl")
    return description


def _gains_of_before(policy: BasePolicy, missing: set[str]) -> dict[str, Tensor]:
    """Files of earlier versions do not say the gains of their weights, which are their constructor's."""
    maps = {f"{name}.weight_gain": part for name, part in policy.named_modules() if isinstance(part, Gained)}
    return {name: torch.full_like(maps[name].weight_gain, maps[name].first_gain) for name in missing & maps.keys()}


def _check_tensors(own: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    """
    :param own: of the policy that was built from the description
    :param others: those to fill it with
    :raises ValueError: where names, shapes or types differ
    """
    for what, names in (("missing", own.keys() - others.keys()), ("too many", others.keys() - own.keys())):
        if names:
            raise ValueError(f"its tensors are not those of the policy it describes: {what} {sorted(names)[:3]}")
    for name, tensor in own.items():
        other = others[name]
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            raise ValueError(
                f"the tensor {name!r} is of {other.dtype} and shape {tuple(other.shape)}, where the policy it "
                f"describes has {tensor.dtype} and {tuple(tensor.shape)}"
            )
