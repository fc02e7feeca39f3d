"""An update of soft actor-critic in torch's operations: the losses, and the order in which they move the networks.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", section 5, as `SAC.train` of Stable-Baselines3
2.9 has it. Any flow, any critic, any optimiser, any device; nothing branches on a tensor's value, so that
`torch.compile` and CUDA graphs take the losses as they are.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from flowrl.algorithms.finite import marked, step_if_finite
from flowrl.side_by_side import side_by_side


def temperature_loss(log_ent_coef: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-log alpha mean(log pi(a|s) + target entropy): alpha rises while the policy's entropy is below the target."""
    return -(log_ent_coef * (log_prob + target_entropy).detach()).mean()


@torch.no_grad()
def next_value(actor: Any, critic_target: nn.Module, next_observations: Any) -> tuple[Tensor, Tensor]:
    """min_i Q'_i(s', a') and log pi(a'|s'), a' ~ pi, each of shape ``(batch, 1)``."""
    next_actions, next_log_prob = actor.action_log_prob(next_observations)
    next_q = torch.cat(critic_target(next_observations, next_actions), 1).amin(1, keepdim=True)
    return next_q, next_log_prob.reshape(-1, 1)


@torch.no_grad()
def td_target(
    batch: ReplayBufferSamples, next_q: Tensor, next_log_prob: Tensor, ent_coef: Tensor, gamma: float
) -> Tensor:
    """y = r + gamma (1 - done) (min_i Q'_i(s', a') - alpha log pi(a'|s')), shape ``(batch, 1)``."""
    discounts = gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * (next_q - ent_coef * next_log_prob)


def critic_loss(q_values: Iterable[Tensor], target: Tensor) -> Tensor:
    """1/2 sum_i mean (Q_i(s, a) - y)^2."""
    return 0.5 * sum(F.mse_loss(q, target) for q in q_values)  # type: ignore[return-value]


def actor_loss(critic: nn.Module, observations: Any, actions: Tensor, log_prob: Tensor, ent_coef: Tensor) -> Tensor:
    """mean(alpha log pi(a|s) - min_i Q_i(s, a)), a ~ pi with a gradient."""
    q = torch.cat(critic(observations, actions), 1).amin(1, keepdim=True)
    return (ent_coef * log_prob.reshape(-1, 1) - q).mean()


def update(model: Any, batch: ReplayBufferSamples, move_targets: bool) -> Tensor:
    """
    Move temperature, critics, actor and targets, in this order.

    :param model: SAC
    :param batch: of transitions
    :param move_targets: whether the target networks follow
    :return: the losses of the temperature, the temperature, of the critics and of the actor
    """
    if model.use_sde:
        model.actor.reset_noise()
    (actions, log_prob), (next_q, next_log_prob), q_values = side_by_side(
        lambda: model.actor.action_log_prob(batch.observations),
        lambda: next_value(model.actor, model.critic_target, batch.next_observations),
        lambda: model.critic(batch.observations, batch.actions),
    )
    ent_coef = temperature(model)
    target = td_target(batch, next_q, next_log_prob, ent_coef, model.gamma)
    of_critic, of_temperature = side_by_side(
        lambda: descend(critic_loss(q_values, target), model.critic.optimizer),
        lambda: move_temperature(model, log_prob),
    )
    with frozen(set(model.critic.parameters()) - set(model.actor.parameters())):  # they may share an extractor
        of_actor = actor_loss(model.critic, batch.observations, actions, log_prob, ent_coef)
        of_actor = descend(of_actor, model.actor.optimizer)

    if move_targets:
        polyak_update(model.critic.parameters(), model.critic_target.parameters(), model.tau)
        polyak_update(model.batch_norm_stats, model.batch_norm_stats_target, 1.0)
    losses = (of_temperature, ent_coef, of_critic, of_actor)
    return torch.stack([loss.detach().reshape(()) for loss in losses])


def temperature(model: Any) -> Tensor:
    """
    :param model: of SAC's form
    :return: alpha, a scalar without a gradient
    """
    return model.ent_coef_tensor if model.ent_coef_optimizer is None else model.log_ent_coef.detach().exp()


def move_temperature(model: Any, log_prob: Tensor) -> Tensor:
    """
    :param model: of SAC's form
    :param log_prob: of actions that it has sampled
    :return: the loss of its temperature, zero where that is fixed
    """
    if model.ent_coef_optimizer is None:
        return log_prob.new_zeros(())
    return descend(temperature_loss(model.log_ent_coef, log_prob, model.target_entropy), model.ent_coef_optimizer)


def descend(loss: Tensor, optimizer: Optimizer) -> Tensor:
    """
    A step of an optimiser along a loss's gradient, if that is finite.

    :param loss: a scalar
    :param optimizer: of its parameters
    :return: the loss, without a gradient; NaN where that was not finite
    """
    optimizer.zero_grad()
    loss.backward()
    return marked(loss, step_if_finite(optimizer))


@torch.no_grad()
def polyak_update(parameters: Iterable[Tensor], targets: Iterable[Tensor], tau: float) -> None:
    """target <- (1 - tau) target + tau parameter, to the bit as SB3's function, in two launches on a GPU."""
    parameters, targets = list(parameters), list(targets)
    if targets:
        torch._foreach_mul_(targets, 1 - tau)
        torch._foreach_add_(targets, parameters, alpha=tau)


@contextmanager
def frozen(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Leave parameters out of the gradient: the actor's loss moves no critic."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
