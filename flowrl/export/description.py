"""What a policy is, in JSON: its kind, its spaces and its constructor's arguments; and a policy built from that."""

import math
from collections.abc import Mapping
from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowrl.export.allowed import find, name_of
from flowrl.export.arguments import as_data, from_data
from flowrl.export.input_normalization import InputNormalization
from flowrl.export.spaces import build_space, describe_space
from flowrl.policies.vec_normalize import vec_normalize_of

FORMAT = 1
SPACES = ("observation_space", "action_space")
LEFT_OUT = ("lr_schedule", *SPACES)
"""Of the constructor's arguments: SB3 saves a dummy of the first, and the spaces stand by themselves."""


def policy_of(model: BaseAlgorithm | BasePolicy) -> tuple[BasePolicy, InputNormalization | None]:
    """
    :param model: a model or a policy
    :return: the policy, and what normalises the observations in front of it
    :raises ValueError: if it is neither, or a wrapper around its `VecNormalize` changes observations
    """
    if isinstance(model, BaseAlgorithm):
        own = getattr(model.policy, "input_normalization", None)
        return model.policy, own or InputNormalization.of(vec_normalize_of(model))
    if isinstance(model, BasePolicy):
        return model, getattr(model, "input_normalization", None)
    raise ValueError(f"This takes a model of Stable-Baselines3 or a policy of one, got a {type(model).__name__}.")


def describe(policy: BasePolicy, normalization: InputNormalization | None) -> dict[str, Any]:
    """
    :param policy: a policy
    :param normalization: of its observations
    :return: it in JSON
    :raises ValueError: if it has what is no data, naming the argument and what to do instead
    """
    import flowrl

    kind = name_of(type(policy))
    if kind is None:
        raise ValueError(
            f"{type(policy).__name__} is not on the list of policies that a file may name: flowrl.export.allow(cls) "
            "puts a class of your own there, here and where the file is opened."
        )
    arguments = dict(policy._get_constructor_parameters())
    if hasattr(policy, "share_features_extractor"):  # which SB3 (2.9) forgets
        arguments["share_features_extractor"] = policy.share_features_extractor
    return dict(
        format=FORMAT,
        versions=dict(
            flowrl=flowrl.__version__, torch=torch.__version__, stable_baselines3=stable_baselines3.__version__
        ),
        policy=kind,
        **{name: describe_space(getattr(policy, name)) for name in SPACES},
        arguments={name: as_data(value, name) for name, value in arguments.items() if name not in LEFT_OUT},
        input_normalization=None if normalization is None else normalization.description(),
    )


def build(description: Mapping[str, Any], numbers: int) -> BasePolicy:
    """
    Make the policy that a description describes, with weights of its own.

    :param description: from anywhere
    :param numbers: in the file's tensors; building a policy that is much larger is given up
    :return: on the CPU
    :raises ValueError: if it describes none
    """
    cls = find(description.get("policy"))
    if not issubclass(cls, BasePolicy):
        raise ValueError(f"{description['policy']!r} is no policy")
    observation_space, action_space = (build_space(description.get(name)) for name in SPACES)
    arguments = from_data(description.get("arguments"))
    if not isinstance(arguments, dict):
        raise ValueError("it has no arguments of the policy")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _AllocationLimit(numbers):
        policy = cls(observation_space, action_space, lr_schedule=BasePolicy._dummy_schedule, **arguments)
    policy.set_training_mode(False)
    normalization = description.get("input_normalization")
    if normalization is not None:
        InputNormalization.build(normalization, observation_space).attach(policy)
    return policy


def tensors_of(policy: BasePolicy) -> dict[str, Tensor]:
    """A policy's `state_dict`, without the further names of what networks share."""
    seen: set[tuple[int, torch.Size]] = set()
    tensors = {}
    for name, tensor in policy.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place in seen and tensor.numel():
            continue
        seen.add(place)
        tensors[name] = tensor
    return tensors


class _AllocationLimit(TorchDispatchMode):
    """Gives up before a description of absurd size has filled all memory, or taken all day.

    :param numbers: that are there to be put into what is built
    """

    OPERATION = 2**11
    """What each counts as at least."""

    def __init__(self, numbers: int):
        super().__init__()
        self.left = 32 * numbers + 2**24  # start values take a few times their size to draw

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args else None
        size = first if isinstance(first, (list, tuple)) else [n for n in args if isinstance(n, int)]
        is_size = bool(size) and all(isinstance(n, int) for n in size)
        shapes = [arg.shape for arg in args if isinstance(arg, Tensor)]
        together = 0  # what tensors of several shapes are broadcast to
        if len(set(shapes)) > 1:
            try:
                together = math.prod(torch.broadcast_shapes(*shapes))
            except RuntimeError:  # such as a matrix and a vector
                pass
        self.left -= max(self.OPERATION, math.prod(size) if is_size else 0, together)
        if self.left < 0:
            raise ValueError("it describes a policy that is far larger than the file's tensors")
        return func(*args, **(kwargs or {}))
