"""PPO: Stable-Baselines3's algorithm and interface, an epoch of whose update is one call of C where it can be."""

import math
from typing import Any, ClassVar

import torch
from stable_baselines3 import ppo
from stable_baselines3.common.utils import explained_variance

from flowrl.algorithms.finite import check_losses
from flowrl.algorithms.gradients import actor_and_critic, gradient_norm
from flowrl.algorithms.policy_class import check_policy_class
from flowrl.algorithms.ppo.minibatches import is_array_backed, minibatches, shuffled
from flowrl.algorithms.ppo.update import descend, losses
from flowrl.algorithms.update_form import UpdateFormMixin
from flowrl.options import between

LOSSES = ("policy_gradient_loss", "value_loss", "entropy_loss", "loss")
"""What must be finite; a divergence may be infinite where the ratio is clipped."""

FACTORS = 0.01, 10.0
"""Between which ``desired_kl`` multiplies the learning rate."""

Losses = dict[str, Any]
"""Of a minibatch, by the names of SB3's logs."""


class PPO(UpdateFormMixin, ppo.PPO):
    """
    Proximal Policy Optimization (Schulman et al. 2017) with the update of Stable-Baselines3 2.9, `PPO.train`, faster.

    The same losses, gradients and random numbers, step for step, up to rounding. Its models are SB3's: either loads
    what the other has saved. With a flow that the kernels know, an epoch is one call of C, on a GPU a minibatch one of
    a CUDA graph; with anything else it is torch's (`flowrl.algorithms.ppo.update`).
    :attr:`update_form` says which, :attr:`update_reason` why.

    In C and with ``ent_coef=0`` the entropy is not evaluated, since nothing but the log would read it:
    ``train/entropy_loss`` is then the mean log-prob of the rollout's actions, an estimate of the same.

    :param desired_kl: how far an update should move the policy, KL(old || new), the mean over its last epoch of what is
        measured before each step. Where it was more than twice as far, the learning rate of the next update is 1.5
        times smaller, where it was less than half as far, larger (Rudin et al. 2021, "Learning to Walk in Minutes", in
        their `rsl_rl`). The factor multiplies ``learning_rate`` and its schedule, and stays within `FACTORS`. None: the
        rate is as given, as in SB3
    :param args: SB3's
    :param kwargs: SB3's
    :raises ValueError: for a ``desired_kl`` that is not above zero, or updates of a single step, before which nothing
        has moved
    :raises flowrl.Diverged: in training, where a loss is NaN or infinite
    """

    own_policies: ClassVar[str | None] = None
    """The algorithm whose policies it needs, see :func:`check_policy_class`."""
    desired_kl: float | None = None
    rate_factor = 1.0
    """By which the learning rate is multiplied at present."""

    def __init__(self, *args: Any, desired_kl: float | None = None, **kwargs: Any) -> None:
        self.desired_kl = desired_kl
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        check_policy_class(self, self.own_policies)
        super()._setup_model()
        if self.desired_kl is not None:
            between("desired_kl", self.desired_kl, 0)
            if self.n_epochs * math.ceil(self.n_steps * self.n_envs / self.batch_size) == 1:
                raise ValueError("desired_kl needs updates of several steps: more n_epochs, or a smaller batch_size.")
        self.choose_update()

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        if self.desired_kl is None:
            return
        for group in self.policy.optimizer.param_groups:
            group["lr"] *= self.rate_factor
        rate = self.rate_factor * self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", rate)

    def _adapt_rate(self, divergence: float) -> None:
        """The factor of the next update's learning rate, by the divergence of this one."""
        if self.desired_kl is None:
            return
        if divergence > 2 * self.desired_kl:
            self.rate_factor = max(self.rate_factor / 1.5, FACTORS[0])
        elif divergence < self.desired_kl / 2:
            self.rate_factor = min(self.rate_factor * 1.5, FACTORS[1])

    def train(self) -> None:
        """See SB3's `PPO.train`."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        compiled = self.choose_update()
        rows: list[Losses] = []
        limit = float("inf") if self.target_kl is None else 1.5 * self.target_kl
        for epoch in range(self.n_epochs):
            first_of_epoch = len(rows)
            if compiled is None:
                rows += self._epoch_in_torch(clip_range, clip_range_vf, limit)
            else:
                rows += self._epoch_by_calls(compiled, clip_range, clip_range_vf, limit)
            self._n_updates += 1
            of_epoch = {name: _mean([row[name] for row in rows[first_of_epoch:]]) for name in LOSSES}
            check_losses(of_epoch, self.num_timesteps)
            divergence = float(rows[-1]["approx_kl"])
            if divergence > limit:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                break

        # SB3's logs: the divergence of the last epoch, the loss of the last minibatch, means of all the rest
        means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
        means["approx_kl"] = _mean([row["approx_kl"] for row in rows[first_of_epoch:]])
        means["loss"] = float(rows[-1]["loss"])
        self._adapt_rate(means["approx_kl"])
        for name, value in means.items():
            self.logger.record(f"train/{name}", value)
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        if hasattr(self.policy, "log_std"):  # a Gaussian's; no flow has one
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def gradient_norms(self) -> dict[str, float]:
        """Of the actor's and the critic's gradients in the last update, after they were clipped together."""
        return {name: gradient_norm(group) for name, group in actor_and_critic(self.policy).items()}

    def _epoch_by_calls(
        self, compiled: Any, clip_range: float, clip_range_vf: float | None, limit: float
    ) -> list[Losses]:
        """The losses of minibatch after minibatch, until one's divergence is beyond the limit."""
        rollout = shuffled(self.rollout_buffer)
        size = self.batch_size or len(rollout.actions)
        # With a limit one by one, lest more random numbers be drawn than SB3 draws
        parts = [rollout] if self.target_kl is None else minibatches(rollout, size)
        rows: list[Losses] = []
        for part in parts:
            rows += compiled(self, part, size, clip_range, clip_range_vf)
            if rows[-1]["approx_kl"] > limit:
                break
        return rows

    def _epoch_in_torch(self, clip_range: float, clip_range_vf: float | None, limit: float) -> list[Losses]:
        """The same; a minibatch beyond the limit is not learned from."""
        if is_array_backed(self.rollout_buffer):
            rollout = shuffled(self.rollout_buffer)
            batches: Any = minibatches(rollout, self.batch_size or len(rollout.actions))
        else:
            batches = self.rollout_buffer.get(self.batch_size)
        rows: list[Losses] = []
        for batch in batches:
            loss, row = losses(self, batch, clip_range, clip_range_vf)
            rows.append(row)
            if self.target_kl is not None and row["approx_kl"] > limit:
                break
            row["loss"] = descend(self, loss)
        return rows


def _mean(values: list[Any]) -> float:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values).mean().item()
    return sum(values) / len(values)
