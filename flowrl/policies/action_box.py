"""The environment's box of actions: its edges and half-width, what lies in it, and which spaces a flow policy takes."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from flowrl.flows.recipes import AnyFlow, find_flow
from flowrl.options import whole

EDGE = 1e-4
"""Where a given action lies on the edge of the box, or nearer to it than this (in half-widths of the box), it is taken
for the action so far inside: the edge itself is the image of u = tanh^-1(1) = infinity."""


def action_box(action_space: spaces.Box, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower edge and half-width of a box of actions, each of shape ``(d,)``, with the dtype and device of ``like``."""
    half = half_width(action_space)
    return torch.from_numpy(action_space.low.flatten()).to(like), torch.from_numpy(half.flatten()).to(like)


def half_width(action_space: spaces.Box) -> np.ndarray:
    """Of a box of actions, in its own precision and shape, and without overflow."""
    return action_space.high / 2 - action_space.low / 2


def precision_of(action_space: spaces.Box, like: Tensor) -> torch.dtype:
    """That in which a box's edges are told apart: the box's, at least that of ``like``, where its device has it."""
    if like.device.type == "mps":
        return like.dtype
    return torch.promote_types(torch.from_numpy(action_space.low.flatten()).dtype, like.dtype)


def check_action_space(action_space: spaces.Space, squash: bool = True) -> None:
    """
    :param action_space: of the environment
    :param squash: whether actions are squashed onto it where it has edges, else clipped to it
    :raises ValueError: for an action space that is no Box, is one of whole numbers, has an edge of no width, or one
        that is too wide for actions to be squashed onto it
    """
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"Flow policies need a continuous action space (gymnasium.spaces.Box), got {action_space}; use SB3's "
            '"MlpPolicy" for discrete actions.'
        )
    if not np.issubdtype(action_space.dtype, np.floating):
        raise ValueError(
            f"The box of actions is of whole numbers ({action_space.dtype}), to which Stable-Baselines3's buffers "
            "would cut what a flow stores of an action. Have the environment take floats and round them itself: "
            "gymnasium.wrappers.TransformAction(env, lambda action: np.rint(action).astype(dtype), "
            "gymnasium.spaces.Box(low, high, dtype=np.float32))."
        )
    with np.errstate(over="ignore"):
        fixed = np.flatnonzero(np.float32(half_width(action_space)) == 0)
    if fixed.size:
        raise ValueError(
            f"The box of actions has no width at index {fixed.tolist()} (low == high, or nearly): what cannot vary has "
            "no density. Leave it out of the action space and add it in the environment."
        )
    if squash and action_space.is_bounded() and (wide := np.flatnonzero(~np.isfinite(_width(action_space)))).size:
        raise ValueError(
            f"The box of actions is too wide at index {wide.tolist()}: high - low, by which Stable-Baselines3 rescales "
            f"actions, overflows {action_space.dtype}. Give it the bounds that actions really have, or for PPO, A2C, "
            "TRPO and SNF policy_kwargs=dict(squash_output=False)."
        )


def _width(action_space: spaces.Box) -> np.ndarray:
    with np.errstate(over="ignore"):
        return action_space.high - action_space.low


def check_flow_arguments(
    action_space: spaces.Space,
    use_sde: bool,
    flow: AnyFlow,
    deterministic_action: str,
    n_candidates: int,
    critic: bool,
    squash: bool = True,
) -> None:
    """Refuse what a flow policy cannot be, before anything is built.

    :raises ValueError: for gSDE, an action space that :func:`check_action_space` refuses, an unknown flow or
        deterministic action, or one by the critic where ``critic`` is False: the policy has none of actions
    """
    if use_sde:
        raise ValueError(
            "use_sde=True is not available for flow policies: gSDE replaces the noise whose density the flow computes. "
            "Set use_sde=False."
        )
    check_action_space(action_space, squash)
    if deterministic_action not in ("mean", "average", "densest", "best")[: 3 + critic]:
        allowed = (
            '"mean", "average", "densest" or "best"'
            if critic
            else '"mean", "average" or "densest" (this algorithm has no Q to say which is best)'
        )
        raise ValueError(f"deterministic_action must be {allowed}, got {deterministic_action!r}.")
    whole("n_candidates", n_candidates, 1)
    if isinstance(flow, str):
        find_flow(flow)


def refuse_noise_layers(policy_kwargs: dict[str, Any]) -> None:
    """Refuse a flow with noise layers where the losses need an action's log-prob.

    :param policy_kwargs: what the policy does not know by itself
    :raises ValueError: if ``noise_layers`` or ``noise_std`` is among them
    """
    for name in {"noise_layers", "noise_std"} & policy_kwargs.keys():
        raise ValueError(
            f"{name}={policy_kwargs[name]!r}: this policy gives its algorithm the exact log-prob of an action, which "
            "in a flow with noise layers is an integral over all paths that lead to it. Use flowrl.algorithms.SNF (on "
            f"PPO, A2C or TRPO; --agent snf), which goes by the paths themselves, or leave out {name}."
        )


def into_box(action: np.ndarray, action_space: spaces.Box) -> np.ndarray:
    """The action itself, or the box's edge where rescaling in float32 has rounded to just beyond it."""
    return np.minimum(np.maximum(action, action_space.low), action_space.high)


def inside_box(action: np.ndarray, action_space: spaces.Box) -> np.ndarray:
    """The action itself, or the nearest that lies :data:`EDGE` half-widths within the box."""
    margin = EDGE * half_width(action_space)
    return np.clip(action, action_space.low + margin, action_space.high - margin)
