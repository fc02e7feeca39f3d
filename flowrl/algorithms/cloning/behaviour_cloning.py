"""Behaviour cloning: the actor of SAC, flow or Gaussian, fitted to demonstrations by maximum likelihood."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import sac
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutReturn, Schedule, TrainFreq
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from flowrl.algorithms.continuous_actions import ContinuousActionsMixin
from flowrl.algorithms.finite import check_losses, marked, step_if_finite
from flowrl.algorithms.offline import (
    Observations,
    channels_first,
    check_actions,
    check_steps,
    fit_normalizations,
    step_without_environment,
    take,
)
from flowrl.algorithms.policy_class import check_policy_class
from flowrl.policies.action_box import EDGE, action_box, precision_of
from flowrl.policies.density import action_log_prob

HELD_OUT_BATCH = 4_096


@dataclass(frozen=True)
class Demonstrations:
    """
    States and what was done in them.

    :param observations: as the environment gives them (not normalised), one row a step; a dictionary of such arrays
        where the environment gives dictionaries
    :param actions: in the environment's units, shape ``(steps, *action_shape)``
    """

    observations: Observations
    actions: NDArray[Any]

    def __len__(self) -> int:
        return len(self.actions)

    def take(self, index: Any) -> "Demonstrations":
        """Some of the steps."""
        return Demonstrations(take(self.observations, index), self.actions[index])


class BehaviourCloning(ContinuousActionsMixin, sac.SAC):
    """
    Maximum-likelihood imitation with SAC's policy: it learns, saves, loads and predicts as SAC does.

    A step of `learn` is one update on a minibatch of the demonstrations; the environment is only there for its spaces.
    Only the actor is trained: SAC loads the saved model, or its actor, and goes on from there.

    Arguments are those of SB3's SAC, but that ``learning_starts`` is 0, ``train_freq`` 1 and ``gradient_steps`` 1.

    :raises ValueError: for others of these three, gSDE, or an action space that is not continuous
    :raises flowrl.Diverged: in training, where the log-likelihood or its gradient is NaN or infinite
    :raises TypeError: for another algorithm's policy
    """

    demonstrations: Demonstrations | None = None
    held_out: Demonstrations | None = None

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: Any,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 0,
        *args: Any,
        **kwargs: Any,
    ):
        super().__init__(policy, env, learning_rate, buffer_size, learning_starts, *args, **kwargs)
        if not kwargs.get("_init_setup_model", True):  # in load: imitate has the last word on what a file says
            return
        frequency, unit = cast(TrainFreq, self.train_freq)  # SB3 has converted it
        if learning_starts or (frequency, unit.value, self.gradient_steps) != (1, "step", 1):
            raise ValueError(
                "A step of BehaviourCloning is one update: expected learning_starts=0, train_freq=1 and "
                f"gradient_steps=1, got {learning_starts}, {(frequency, unit.value)} and {self.gradient_steps}. For "
                "more updates call learn with more steps."
            )

    def _setup_model(self) -> None:
        check_policy_class(self, None)
        if self.use_sde:
            raise ValueError("BehaviourCloning fits the policy's own density, which gSDE replaces: set use_sde=False.")
        super()._setup_model()

    def imitate(self, demonstrations: Demonstrations, held_out: Demonstrations | None = None) -> "BehaviourCloning":
        """
        Say what to learn from. Where the environment is a `VecNormalize`, its statistics of observations become those
        of the demonstrations, once and for all; so do those of a new policy that normalises by itself.

        :param demonstrations: to fit
        :param held_out: whose log-likelihood is logged, ``train/log_likelihood_held_out``
        :return: the model itself
        :raises ValueError: for demonstrations of other shapes than the environment's, actions beyond its box, or none
        """
        self._check(demonstrations)
        if held_out is not None:
            self._check(held_out)
        self.demonstrations, self.held_out = demonstrations, held_out
        self.learning_starts, self.gradient_steps = 0, 1  # of a file, SAC's maybe, they are others
        fit_normalizations(self, demonstrations.observations)
        return self

    def log_likelihood(self, demonstrations: Demonstrations) -> Tensor:
        """
        Log-density of the demonstrated actions, in the environment's units; exact, but for those that lie within
        ``EDGE`` half-widths of the box's edge, which are scored as if they lay just there.

        :param demonstrations: n steps
        :return: shape ``(n,)``, nats
        """
        observations: Any = demonstrations.observations
        if self._vec_normalize_env is not None:
            observations = self._vec_normalize_env.normalize_obs(observations)
        obs, _ = self.policy.obs_to_tensor(observations)
        precision = precision_of(self.action_space, next(self.policy.parameters()))  # type: ignore[arg-type]
        actions = torch.as_tensor(demonstrations.actions, dtype=precision, device=self.device)
        actions = actions.reshape(len(actions), -1)
        low, half = action_box(self.action_space, actions)  # type: ignore[arg-type]
        inside = low + half * ((actions - low) / half).clamp(EDGE, 2 - EDGE)
        return action_log_prob(self.policy, obs, inside)

    @torch.no_grad()
    def mean_log_likelihood(self, demonstrations: Demonstrations) -> float:
        """
        :param demonstrations: n steps
        :return: the mean of :meth:`log_likelihood`
        """
        self.policy.set_training_mode(False)
        parts = [
            self.log_likelihood(demonstrations.take(slice(start, start + HELD_OUT_BATCH))).double().sum()
            for start in range(0, len(demonstrations), HELD_OUT_BATCH)
        ]
        return torch.stack(parts).sum().item() / len(demonstrations)

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """In place of a step in the environment (SB3 2.9, `OffPolicyAlgorithm`), the next minibatch."""
        if self.demonstrations is None:
            raise ValueError("BehaviourCloning has no demonstrations: call imitate(demonstrations) before learn.")
        self.minibatch = self.demonstrations.take(np.random.randint(len(self.demonstrations), size=self.batch_size))
        return step_without_environment(self, callback, take(self.minibatch.observations, slice(1)))

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        One step up the log-likelihood of the minibatch.

        :raises flowrl.Diverged: where it or its gradient is NaN or infinite; no weight is moved
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.actor.optimizer)
        log_likelihood = self.log_likelihood(self.minibatch).mean()
        self.actor.optimizer.zero_grad()
        (-log_likelihood).backward()
        mean = marked(log_likelihood, step_if_finite(self.actor.optimizer)).item()
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        check_losses(dict(log_likelihood=mean), self.num_timesteps)
        self.logger.record_mean("train/log_likelihood", mean)

    def _check(self, demonstrations: Demonstrations) -> None:
        """Refuse what cannot be cloned, see :meth:`imitate`."""
        actions, observations = demonstrations.actions, demonstrations.observations
        check_steps(self, actions, observations=channels_first(observations, self.observation_space))
        check_actions(self, actions)

    def dump_logs(self) -> None:
        if self.held_out is not None:
            self.logger.record("train/log_likelihood_held_out", self.mean_log_likelihood(self.held_out))
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "demonstrations", "held_out", "minibatch"]
