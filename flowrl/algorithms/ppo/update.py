"""The losses of proximal policy optimization in torch's operations, of any policy on any device.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq. 7 and 9, as `PPO.train` of Stable-Baselines3 2.9
has it.
"""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor
from torch.nn import functional as F

from flowrl.algorithms.finite import marked, step_if_finite

LOGS = ("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss")
"""What SB3 logs of a minibatch, by its names."""


def policy_loss(advantages: Tensor, ratio: Tensor, clip_range: float) -> Tensor:
    """-mean min(A r, A clip(r, 1 - eps, 1 + eps)), r = pi(a|s) / pi_old(a|s)."""
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min(advantages * ratio, advantages * clipped).mean()


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range_vf: float | None) -> Tensor:
    """mean (V(s) - R)^2, the change of V clipped if asked."""
    if clip_range_vf is not None:
        values = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
    return F.mse_loss(returns, values)


def losses(
    model: Any, batch: RolloutBufferSamples, clip_range: float, clip_range_vf: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """
    :param model: PPO
    :param batch: a minibatch
    :param clip_range: of the ratio
    :param clip_range_vf: of the change in values; None: it is not clipped
    :return: the loss, with a gradient; and what SB3 logs, by its names, without
    """
    actions = batch.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else batch.actions
    values, log_prob, entropy = model.policy.evaluate_actions(batch.observations, actions)
    advantages = batch.advantages
    if model.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - batch.old_log_prob
    ratio = log_ratio.exp()
    of_policy = policy_loss(advantages, ratio, clip_range)
    of_values = value_loss(values.flatten(), batch.old_values, batch.returns, clip_range_vf)
    of_entropy = log_prob.mean() if entropy is None else -entropy.mean()
    loss = of_policy + model.vf_coef * of_values
    if model.ent_coef != 0:  # else there is no need to go back through a sample of every state
        loss = loss + model.ent_coef * of_entropy
    logs = dict(
        entropy_loss=of_entropy,
        policy_gradient_loss=of_policy,
        value_loss=of_values,
        approx_kl=(torch.expm1(log_ratio) - log_ratio).mean(),
        clip_fraction=((ratio - 1).abs() > clip_range).float().mean(),
        loss=loss,
    )
    return loss, {name: value.detach() for name, value in logs.items()}


def descend(model: Any, loss: Tensor) -> Tensor:
    """
    A step of the policy's optimiser along a loss's gradient, whose norm is clipped, if that is finite.

    :param model: PPO
    :param loss: a scalar
    :return: the loss, without a gradient; NaN where that was not finite
    """
    model.policy.optimizer.zero_grad()
    loss.backward()
    return marked(loss, step_if_finite(model.policy.optimizer, max_grad_norm=model.max_grad_norm))
