r"""An update of NFQ: soft Q-learning whose Q-function is a flow and networks of the state.

.. math:: Q_i(s, a) = V_i(s) + \alpha \log \pi(a|s)

    y = r + \gamma (1 - d) \min_j \bar V_j(s')

The soft Bellman backup of Haarnoja et al. 2017 (eq. 5 to 7) with its integral over actions in closed form.

The loss is the weighted mean square of Q_i - y. A replayed action is weighted by how likely pi still is to take it.
With pi* = exp((y - V*) / alpha), the best policy for these targets, a fit to all of them alike makes V too high by
alpha E_replayed[log pi* - log pi]: by actions that pi has left more than it should have (docs/nfq.md).

.. math:: w(s, a) = \max(c, \min(1, \pi(a|s) / \pi(a'|s))), \quad a' \sim \pi(\cdot|s), \qquad
    L = \tfrac{1}{2} \sum_i E[w (Q_i - y)^2] / \max(E[w], 1/20)

w is the probability with which the Metropolis algorithm would go from an action of pi's own to the replayed one. The
truncated importance weight of Retrace (Munos et al. 2016) is min(1, pi / replayed), whose denominator the replay
buffer does not store.

Closest published: MEow (Chao et al. 2024, "Maximum Entropy Reinforcement Learning via Energy-Based Normalizing Flow"),
whose flow is not normalised by itself and needs volume changes that depend on the state alone; V_1 and V_2 are what its
learnable reward shifting adds, and the minimum of the targets is its clipped double Q.

Conservative Q-learning (Kumar et al. 2020, eq. 4, CQL(H)) lowers Q for actions that the data do not show by adding

.. math:: c \sum_i E[\alpha \log \int \exp(Q_i(s, a') / \alpha) da' - Q_i(s, a)] = -c n \alpha E[\log \pi(a|s)]

for n values, whose integral, again, is V_i: likelihood of the replayed actions is all that is left of it.
"""

from typing import Any

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from flowrl.algorithms.finite import marked, step_if_finite
from flowrl.algorithms.sac.update import move_temperature, polyak_update, temperature
from flowrl.critics.soft_q import soft_q
from flowrl.side_by_side import side_by_side

MAX_WEIGHT = 20.0
"""The upper limit of a weight, so that one action does not stand for a whole batch."""


@torch.no_grad()
def td_target(target_values: nn.Module, batch: ReplayBufferSamples, gamma: float) -> Tensor:
    """y = r + gamma (1 - done) min_j V'_j(s'), shape ``(batch, 1)``."""
    discounts = gamma if batch.discounts is None else batch.discounts
    next_value = target_values(batch.next_observations).amin(1, keepdim=True)
    return batch.rewards + (1 - batch.dones) * discounts * next_value


def conservative_loss(log_prob: Tensor, ent_coef: Tensor, n: int) -> Tensor:
    """sum_i mean (V_i(s) - Q_i(s, a)) = -n alpha mean log pi(a|s), of n values."""
    return -n * (ent_coef * log_prob).mean()


def importance(log_prob: Tensor, sampled_log_prob: Tensor, floor: float) -> Tensor:
    """
    What replayed actions count for, beside the others of their batch.

    :param log_prob: log pi(a|s) of the replayed actions, shape ``(batch,)``, nats
    :param sampled_log_prob: log pi(a'|s) of pi's own, in the same states
    :param floor: c, the least weight before they are divided by their mean, in [0, 1]
    :return: weights of at most :data:`MAX_WEIGHT`, whose mean is one where that allows it, shape ``(batch,)``, without
        a gradient
    """
    weights = (log_prob - sampled_log_prob).detach().clamp(max=0.0).exp().clamp(min=floor)
    return weights / weights.mean().clamp(min=1 / MAX_WEIGHT)


def soft_q_loss(
    values: Tensor, log_prob: Tensor, ent_coef: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """1/2 sum_i mean w (V_i(s) + alpha log pi(a|s) - y)^2; weights of one where there are none."""
    squares = (soft_q(values, log_prob, ent_coef) - target).square()
    if weights is not None:
        squares = weights.unsqueeze(-1) * squares
    return 0.5 * squares.mean(0).sum()


def update(model: Any, batch: ReplayBufferSamples, move_targets: bool) -> Tensor:
    """
    Move the flow and the values together, then the temperature and the targets.

    :param model: NFQ
    :param batch: of transitions, whose actions are u = atanh(a)
    :param move_targets: whether the target networks follow
    :return: the losses of the temperature, the temperature, of Q, and the mean of V
    """
    pi = model.actor.get_distribution(batch.observations).distribution
    ent_coef = temperature(model)
    log_prob, values, target = side_by_side(
        lambda: pi.log_prob(batch.actions),
        lambda: model.critic(batch.observations),
        lambda: td_target(model.critic_target, batch, model.gamma),
    )
    weights, sampled_log_prob = None, log_prob
    if model.ent_coef_optimizer is not None or model.importance_floor < 1:
        with torch.no_grad():
            _, sampled_log_prob = pi.rsample_and_log_prob()
    if model.importance_floor < 1:
        weights = importance(log_prob, sampled_log_prob, model.importance_floor)
    loss = of_q = soft_q_loss(values, log_prob, ent_coef, target, weights)
    if model.cql_weight != 0:
        loss = of_q + model.cql_weight * conservative_loss(log_prob, ent_coef, values.shape[1])

    optimizers = (model.actor.optimizer, model.critic.optimizer)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    # An extractor that both networks share is one optimiser's alone: nothing is clipped twice
    finite = step_if_finite(*optimizers, max_grad_norm=model.max_grad_norm)
    of_temperature = move_temperature(model, sampled_log_prob)
    if move_targets:
        polyak_update(model.critic.parameters(), model.critic_target.parameters(), model.tau)
        polyak_update(model.batch_norm_stats, model.batch_norm_stats_target, 1.0)
    losses = (of_temperature, ent_coef, marked(of_q, finite), values.mean())
    return torch.stack([loss.detach().reshape(()) for loss in losses])
