"""Warm start: a flow policy that goes on from a trained Gaussian policy of Stable-Baselines3."""

import io
import math
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr, recursive_setattr
from torch import Tensor

from flowrl.flows.flow import LOG_STD_MAX, Flow
from flowrl.flows.recipes import AnyFlow
from flowrl.policies.density import ActionDensity

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)


def from_gaussian(
    model: Algorithm, flow: AnyFlow | None = None, flow_kwargs: dict[str, Any] | None = None
) -> Algorithm:
    """A model of the same algorithm with a flow policy that acts, at first, exactly as the given Gaussian one.

    (Where SB3's SAC clips a log-std to [-20, 2], a flow goes on, smoothly, by at most one unit. SB3's PPO, A2C and TRPO
    have no such bound: where a log-std of theirs is above 2, the flow's ``log_std_max`` is the next whole number above
    it, unless ``flow_kwargs`` has one.)

    Networks, critics, values, temperature, their optimisers, hyperparameters, environment, replay buffer and step count
    are taken over; the policy's own optimiser starts anew, since its parameters are not the same. A Gaussian PPO clips
    its actions to the box, so that its flow does too (``squash_output=False``).

    :param model: a trained model with SB3's (or sb3-contrib's) own Gaussian policy, without gSDE
    :param flow: see :class:`flowrl.Flow`; None: the policy's own default
    :param flow_kwargs: options of the recipe, and of :class:`flowrl.Flow`
    :raises ValueError: if the model's policy is no such Gaussian, or the flow has no Gaussian start
    """
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    data, parameters, variables = load_from_zip_file(buffer, device=model.device)
    assert data is not None  # a model saved by SB3 has it

    warm = type(model)(
        policy=_flow_policy_class(model), env=model.get_env(), device=model.device, _init_setup_model=False
    )  # type: ignore[call-arg]
    policy_class = warm.policy_class
    warm.__dict__.update(data)
    warm.policy_class = policy_class
    flow = policy_class.default_flow if flow is None else flow  # type: ignore[attr-defined]
    warm.policy_kwargs = data["policy_kwargs"] | dict(flow=flow, flow_kwargs=flow_kwargs)
    on_policy = "action_net.weight" in parameters["policy"]
    if on_policy:
        bound = _bound_above(parameters["policy"])  # type: ignore[arg-type]
        warm.policy_kwargs |= dict(flow_kwargs=bound | (flow_kwargs or {}) or None, squash_output=False)
    warm._setup_model()

    head: Flow = warm.policy.action_net if on_policy else warm.policy.actor.flow  # type: ignore[assignment, union-attr]
    if not head.starts_as_gaussian:
        raise ValueError(f"Flow {flow!r} has no Gaussian start to warm up from: use one of flowrl's recipes.")
    weights: Any = parameters.pop("policy")
    head.set_gaussian(*_pop_gaussian_head(weights, on_policy))
    missing, unexpected = warm.policy.load_state_dict(weights, strict=False)
    prefix = "action_net." if on_policy else "actor.flow."
    if unexpected or not all(name.startswith(prefix) for name in missing):
        raise ValueError(f"The Gaussian policy has other parts than the flow policy: {missing}, {unexpected}.")
    for name, state in parameters.items():
        if name not in ("policy.optimizer", "actor.optimizer"):
            recursive_getattr(warm, name).load_state_dict(state)
    for name, value in (variables or {}).items():
        recursive_setattr(warm, f"{name}.data", value.data)

    if getattr(model, "replay_buffer", None) is not None:
        warm.replay_buffer = model.replay_buffer  # type: ignore[attr-defined]
    return warm


def _bound_above(weights: dict[str, Tensor]) -> dict[str, float]:
    """The option of :class:`flowrl.Flow` that an on-policy Gaussian needs; none where the default serves."""
    largest = weights["log_std"].max().item() if "log_std" in weights else 0.0
    return dict(log_std_max=float(math.ceil(largest))) if LOG_STD_MAX < largest < math.inf else {}


def _flow_policy_class(model: BaseAlgorithm) -> Any:
    aliases = model.policy_aliases
    names = [name for name, policy in aliases.items() if policy is model.policy_class]
    flow_name = "Flow" + names[0].removeprefix("Mlp") if names else ""
    if isinstance(model.policy, ActionDensity) or flow_name not in aliases or getattr(model, "use_sde", False):
        raise ValueError(
            f"from_gaussian needs {type(model).__name__} with SB3's own Gaussian policy and use_sde=False; "
            f"this model's policy is {model.policy_class.__name__}."
        )
    return aliases[flow_name]


def _pop_gaussian_head(weights: dict[str, Tensor], on_policy: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """(mean weight, mean bias, log-std weight, log-std bias), taken out of a Gaussian policy's state dict."""
    if on_policy:
        return weights.pop("action_net.weight"), weights.pop("action_net.bias"), None, weights.pop("log_std")
    return (
        weights.pop("actor.mu.weight"),
        weights.pop("actor.mu.bias"),
        weights.pop("actor.log_std.weight"),
        weights.pop("actor.log_std.bias"),
    )
