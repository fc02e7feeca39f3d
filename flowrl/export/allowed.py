"""The classes that a file may name: a list in code, so that no file says what is imported or called."""

import importlib.util
from difflib import get_close_matches
from typing import TypeVar

from stable_baselines3 import PPO, SAC
from stable_baselines3.common import torch_layers
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn, optim

from flowrl.policies import off_policy, on_policy, return_critic, soft_q, stochastic_on_policy
from flowrl.policies.registration import NAMES

Class = TypeVar("Class", bound=type)

GAUSSIANS = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "Hardtanh", "Identity", "LeakyReLU", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU"),
    *("Sigmoid", "Softplus", "Softsign", "Tanh"),
)
OPTIMIZERS = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
EXTRACTORS = ("CombinedExtractor", "FlattenExtractor", "NatureCNN")


def allow(cls: Class, name: str | None = None) -> Class:
    """
    Let files name a class of your own: a policy, a features extractor, an activation function or an optimiser.

    It has to be allowed where a file is written and where one is opened, under the same name. Its constructor is then
    called with what the file says, so that it should do nothing but build.

    :param cls: the class
    :param name: in the file; its module and name by default
    :return: the class: ``@flowrl.export.allow`` can stand above it
    :raises ValueError: if it is no class, or another one has this name
    """
    if not isinstance(cls, type):
        raise ValueError(f"allow takes a class, got {cls!r}.")
    name = name or f"{cls.__module__}.{cls.__qualname__}"
    if _BY_NAME.get(name, cls) is not cls:
        raise ValueError(f"name={name!r} is that of {_BY_NAME[name]!r} already: take another one.")
    _BY_NAME[name] = cls
    return cls


def name_of(cls: type) -> str | None:
    """
    :param cls: a class
    :return: its name in files; None if it is not allowed
    """
    return next((name for name, allowed in _BY_NAME.items() if allowed is cls), None)


def find(name: object) -> type:
    """
    :param name: of a class, in a file
    :return: the class
    :raises ValueError: if no class of that name is allowed
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        near = get_close_matches(str(name), _BY_NAME, n=1)
        hint = f" (is it {near[0]!r}?)" if near else ""
        raise ValueError(
            f"it names the class {name!r}{hint}, which is not on the list of allowed ones. Do not open it unless you "
            "know where it comes from; a class of your own is put on the list by flowrl.export.allow(cls)"
        )
    return _BY_NAME[name]


def _policies() -> dict[str, type[BasePolicy]]:
    flows: dict[str, tuple[type[BasePolicy], ...]] = {
        "SAC": (off_policy.FlowPolicy, off_policy.FlowCnnPolicy, off_policy.FlowMultiInputPolicy),
        "PPO": (
            on_policy.FlowActorCriticPolicy,
            on_policy.FlowActorCriticCnnPolicy,
            on_policy.FlowMultiInputActorCriticPolicy,
        ),
        "NFAC": (return_critic.NFACPolicy, return_critic.NFACCnnPolicy, return_critic.NFACMultiInputPolicy),
        "NFQ": (soft_q.SoftQPolicy, soft_q.SoftQCnnPolicy, soft_q.SoftQMultiInputPolicy),
        "SNF": (
            stochastic_on_policy.StochasticFlowActorCriticPolicy,
            stochastic_on_policy.StochasticFlowActorCriticCnnPolicy,
            stochastic_on_policy.StochasticFlowMultiInputActorCriticPolicy,
        ),
    }
    if importlib.util.find_spec("sb3_contrib") is not None:
        from flowrl.policies import contrib

        flows["TQC"] = (contrib.FlowTQCPolicy, contrib.FlowTQCCnnPolicy, contrib.FlowTQCMultiInputPolicy)
        flows["CrossQ"] = (contrib.FlowCrossQPolicy,)
    named: dict[str, type[BasePolicy]] = {
        f"{algorithm} {name}": policy
        for algorithm, policies in flows.items()
        for name, policy in zip(NAMES, policies, strict=False)
    }
    # The baselines; A2C and TRPO have PPO's
    return named | {f"{cls.__name__} {name}": cls.policy_aliases[name] for cls in (SAC, PPO) for name in GAUSSIANS}


_BY_NAME: dict[str, type] = {
    **_policies(),
    **{f"torch.nn.{name}": getattr(nn, name) for name in ACTIVATIONS},
    **{f"torch.optim.{name}": getattr(optim, name) for name in OPTIMIZERS},
    **{f"stable_baselines3.{name}": getattr(torch_layers, name) for name in EXTRACTORS},
    "stable_baselines3.RMSpropTFLike": RMSpropTFLike,
}
