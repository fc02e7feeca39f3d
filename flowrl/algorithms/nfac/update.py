r"""An update of NFAC: soft actor-critic whose critics give the distribution of the return.

For target atoms z' of the return from (s', a'), a' ~ pi, and rewards in units of the return's deviation,

.. math:: y = r + \gamma (1 - d) (z' - \alpha \log \pi(a'|s')),

the entropy taken from every atom before gamma and the mask (Duan et al. 2021, DSAC, eq. 7). The critics
learn y's distribution by the loss of their head; the actor minimises

.. math:: E[\alpha \log \pi(a|s) - \rho(Z(s, a))], \qquad a \sim \pi

with rho the mean or a measure of risk (`flowrl.critics.risk`), and the smallest or the mean of the critics' rho. Any
flow, any device; nothing branches on a tensor's value.
"""

from typing import Any, NamedTuple

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from flowrl.algorithms.sac.update import descend, frozen, move_temperature, polyak_update, temperature
from flowrl.critics.heads import Atoms, Head
from flowrl.critics.return_critic import of_smaller_mean, pooled
from flowrl.critics.risk import Distortion, measure
from flowrl.networks import running_statistics


class Target(NamedTuple):
    """What critics learn."""

    atoms: Atoms
    clipped: Tensor
    """The part of the atoms that lay beyond the interval."""


def td_target(
    next_atoms: Atoms,
    next_log_prob: Tensor,
    batch: ReplayBufferSamples,
    ent_coef: Tensor,
    gamma: float,
    scale: float | Tensor,
    head: Head,
) -> Target:
    """
    y = r / scale + gamma (1 - done) (z' - alpha log pi(a'|s')), within the head's interval.

    :param next_atoms: z', shape ``(batch, n)``
    :param next_log_prob: shape ``(batch,)``
    :param batch: of transitions
    :param ent_coef: alpha
    :param gamma: discount
    :param scale: of the rewards
    :param head: whose interval it is
    :return: shape ``(batch, n)``
    """
    discounts = gamma if batch.discounts is None else batch.discounts
    soft = next_atoms.values - ent_coef * next_log_prob.unsqueeze(-1)
    y = batch.rewards / scale + (1 - batch.dones) * discounts * soft
    if not head.is_bounded:
        return Target(Atoms(y, next_atoms.weights), y.new_zeros(()))
    inside = y.clamp(-head.bound, head.bound)
    return Target(Atoms(inside, next_atoms.weights), (inside != y).to(y).mean())


def critic_loss(head: Head, raw: Tensor, target: Atoms) -> Tensor:
    """sum_i mean of the head's loss, of raw outputs ``(n_critics, batch, size)``."""
    of_each = Atoms(target.values.expand(len(raw), *target.values.shape), target.weights)
    return head.loss(raw, of_each).mean(-1).sum()


def actor_loss(atoms: Atoms, distortion: Distortion, log_prob: Tensor, ent_coef: Tensor, smallest: bool) -> Tensor:
    """
    mean(alpha log pi(a|s) - rho(Z(s, a))).

    :param atoms: of every critic, shape ``(n_critics, batch, n)``
    :param distortion: of rho
    :param log_prob: shape ``(batch,)``
    :param ent_coef: alpha
    :param smallest: whether rho is the smallest of the critics', else their mean
    """
    values = measure(atoms, distortion)  # (n_critics, batch)
    return (ent_coef * log_prob - (values.amin(0) if smallest else values.mean(0))).mean()


def pessimistic(atoms: Atoms, drop: int) -> Atoms:
    """The target's atoms of all critics': the smaller mean's, or all but the highest ``drop`` of each."""
    return pooled(atoms, drop) if drop else of_smaller_mean(atoms)


def _both(observations: Any, next_observations: Any) -> Any:
    """Two batches as one."""
    if isinstance(observations, dict):
        return {key: torch.cat((value, next_observations[key])) for key, value in observations.items()}
    return torch.cat((observations, next_observations))


def update(model: Any, batch: ReplayBufferSamples, move_targets: bool, reward_scale: Tensor | None = None) -> Tensor:
    """
    Move temperature, critics, actor (every ``policy_delay`` updates) and targets, in this order.

    :param model: NFAC
    :param batch: of transitions
    :param move_targets: whether the target networks follow
    :param reward_scale: a scalar on the model's device; None: the model's
    :return: the losses of the temperature, the temperature, of the critics and of the actor, the mean value and the
        part of the target's atoms that was clipped; the first and the actor's are 0 where the actor stays
    """
    critic, head = model.critic, model.critic.head
    ent_coef = temperature(model)
    moves_actor = model.moves_actor
    scale = model.reward_scale if reward_scale is None else reward_scale

    of_temperature = of_actor = torch.zeros((), device=model.device)
    if moves_actor:
        actions, log_prob = model.actor.action_log_prob(batch.observations)
        of_temperature = move_temperature(model, log_prob)

    with torch.no_grad(), running_statistics(model.actor):  # as CrossQ: those states are not what the actor learns in
        next_actions, next_log_prob = model.actor.action_log_prob(batch.next_observations)
    if critic.has_batch_statistics:  # one pass over both batches, so that their statistics are the mixture's (CrossQ)
        n = len(batch.actions)
        both = _both(batch.observations, batch.next_observations)
        raw, next_raw = critic.raw(both, torch.cat((batch.actions, next_actions))).split(n, 1)
        next_raw = next_raw.detach()
    else:
        raw = critic.raw(batch.observations, batch.actions)
        with torch.no_grad():
            next_raw = model.critic_target.raw(batch.next_observations, next_actions)
    with torch.no_grad():
        next_atoms = pessimistic(head.atoms(next_raw), model.drop_atoms)
        target = td_target(next_atoms, next_log_prob, batch, ent_coef, model.gamma, scale, head)
        learned = head.smooth(target.atoms)
    of_critic = descend(critic_loss(head, raw, learned), critic.optimizer)

    if moves_actor:
        with frozen(set(critic.parameters()) - set(model.actor.parameters())), running_statistics(critic):
            atoms = head.atoms(critic.raw(batch.observations, actions))
            of_actor = actor_loss(atoms, model.distortion, log_prob, ent_coef, model.actor_pessimism)
            of_actor = descend(of_actor, model.actor.optimizer)
    model.policy.project()

    if move_targets and not critic.has_batch_statistics:
        polyak_update(critic.parameters(), model.critic_target.parameters(), model.tau)
    value = target.atoms.mean().mean()
    losses = (of_temperature, ent_coef, of_critic, of_actor, value, target.clipped)
    return torch.stack([loss.detach().reshape(()) for loss in losses])
