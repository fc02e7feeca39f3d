"""NFQ: SAC without an actor beside the critic, since its soft Q-function is one already."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from flowrl.algorithms.nfq.cost import why_slow
from flowrl.algorithms.nfq.update import update
from flowrl.algorithms.offline import OfflineMixin
from flowrl.algorithms.policy_class import check_policy_class
from flowrl.algorithms.sac import SAC
from flowrl.algorithms.sac.update import temperature
from flowrl.algorithms.schedules import PREFIX, linear_schedule
from flowrl.critics.soft_q import soft_q
from flowrl.options import between, fraction, not_negative
from flowrl.policies.action_box import EDGE, check_action_space, inside_box
from flowrl.policies.soft_q import SoftQCnnPolicy, SoftQMultiInputPolicy, SoftQPolicy


class NFQ(OfflineMixin, SAC):
    """
    A normalizing flow as the soft Q-function, Q_i(s, a) = V_i(s) + alpha log pi(a|s): see
    `flowrl.algorithms.nfq.update`.

    It acts by sampling the flow pi, which is the soft-optimal policy of Q exactly. Arguments are those of SB3's SAC,
    these by keyword; ``ent_coef`` may be set by hand between two trainings. The replay buffer holds u = atanh(a), as
    the policy emits it.

    :param learning_rate: of the values V_i and the temperature
    :param flow_lr_scale: by what it is multiplied for the flow. In a state that is met with one action, an error of V
        cannot be told from an advantage of that action. A flow that learns as fast as the values takes in their errors,
        and V rises with them (docs/nfq.md). A features extractor that both share learns with the flow
    :param ent_coef: alpha, above zero: a number, for rewards of the order of 1; a schedule, of the training that
        remains (1 to 0), or ``"linear_0.2_0.02"``: from the first to the second, which may be zero; or SAC's
        ``"auto"`` or ``"auto_0.1"``, with which the alpha inside Q moves, and HalfCheetah was not learned (docs/nfq.md)
    :param importance_floor: c, the least weight of a replayed action beside those that pi would take again, in [0, 1].
        At 0 V is not raised by what pi has left, but a narrow pi learns from few actions. At 1 all count the same: for
        a data set, whose actions pi never chose
    :param max_grad_norm: to which the gradients of pi and of V are clipped, apart, lest a few replayed actions far
        out in a tail move all of pi; None: they are not
    :param cql_weight: c of conservative Q-learning, which keeps pi near the replayed actions; 0: none
    :raises ValueError: for numbers out of their range, a schedule that is none, actions that are not continuous, or a
        flow that gives no densities of given actions
    :raises flowrl.Diverged: in training, where a loss is NaN or infinite
    :raises TypeError: for another algorithm's policy
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "FlowPolicy": SoftQPolicy,
        "FlowCnnPolicy": SoftQCnnPolicy,
        "FlowMultiInputPolicy": SoftQMultiInputPolicy,
    }
    policy: Any
    actor: Any
    critic: Any
    action_space: spaces.Box
    losses = ("ent_coef_loss", "ent_coef", "critic_loss", "value")
    _torch_update = update
    own_policies = "NFQ"
    flow_lr_scale = importance_floor = 1.0  # of models that an earlier version saved
    random_start = True
    """Whether actions are random before learning starts; False: the policy's own, which has learned before."""

    def __init__(
        self,
        policy: str | type[SoftQPolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        *args: Any,
        flow_lr_scale: float = 0.1,
        importance_floor: float = 0.2,
        ent_coef: str | float | Schedule = 0.2,
        max_grad_norm: float | None = 1.0,
        cql_weight: float = 0.0,
        **kwargs: Any,
    ):
        if kwargs.get("_init_setup_model", True):  # not in load, where an older model has none: see the class
            self.flow_lr_scale, self.importance_floor = flow_lr_scale, importance_floor
        self.max_grad_norm = max_grad_norm
        self.cql_weight = cql_weight
        super().__init__(policy, env, learning_rate, *args, ent_coef=ent_coef, **kwargs)  # type: ignore[misc, arg-type]

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Refuses, before anything is built, what a flow has no density on."""
        env = SAC._wrap_env(env, verbose, monitor_wrapper)
        check_action_space(env.action_space)
        return env

    def _setup_model(self) -> None:
        check_policy_class(self, self.own_policies)  # before numbers, which mean something else in another's file
        between("flow_lr_scale", self.flow_lr_scale, 0)
        fraction("importance_floor", self.importance_floor)
        not_negative("cql_weight", self.cql_weight)
        if self.max_grad_norm not in (None, math.inf):
            between("max_grad_norm", self.max_grad_norm, 0)
        given = self.ent_coef
        self._take_ent_coef()
        if self.ent_coef_schedule is not None:
            self.ent_coef = self.ent_coef_schedule(1.0)
        super()._setup_model()
        self.ent_coef = given
        reason = why_slow(self.actor.flow)
        if reason:
            warnings.warn(
                f"NFQ asks its flow for densities of given actions and for samples, and of flow "
                f"{self.policy.flow_spec['flow']!r} {reason}: it will be slow; nsf, realnvp and triangular are fast.",
                stacklevel=4,  # beyond SB3's and this class's __init__, or load
            )

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Any:
        """See SB3's `BaseAlgorithm.load`; another ``ent_coef`` than the saved one holds, where neither is learned."""
        model = super().load(*args, **kwargs)
        model._follow_schedule()
        return model

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """See SB3's `SAC.train`."""
        self._follow_schedule()
        super().train(gradient_steps, batch_size)

    def _take_ent_coef(self) -> None:
        """From ``ent_coef`` to its schedule, which is None where alpha is learned."""
        self._taken_ent_coef, self.ent_coef_schedule = self.ent_coef, _schedule(self.ent_coef)

    def _follow_schedule(self) -> None:
        if self.ent_coef is not self._taken_ent_coef:  # it was set by hand
            if (_schedule(self.ent_coef) is None) != (self.ent_coef_schedule is None):
                raise ValueError(
                    f"ent_coef={self.ent_coef!r}, where it was {self._taken_ent_coef!r}: whether alpha is learned is "
                    "settled when the model is made."
                )
            self._take_ent_coef()
        if self.ent_coef_schedule is not None:
            self.ent_coef_tensor.fill_(self.ent_coef_schedule(self._current_progress_remaining))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "ent_coef_schedule", "_taken_ent_coef"]

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        for group in self.actor.optimizer.param_groups:
            group["lr"] *= self.flow_lr_scale

    @torch.no_grad()
    def q_values(self, observations: Any, actions: NDArray[Any]) -> NDArray[Any]:
        """
        :param observations: as `predict` takes them, a batch
        :param actions: in the environment's units, shape ``(batch, *action_shape)``
        :return: Q_i(s, a), shape ``(batch, n)``; alpha's log pi is the density on the box scaled to [-1, 1]
        """
        self.policy.set_training_mode(False)
        obs, _ = self.policy.obs_to_tensor(observations)
        u = torch.as_tensor(self.policy.scale_action(inside_box(actions, self.action_space)))
        u = u.reshape(len(u), -1).to(next(self.actor.parameters()))
        log_prob = self.actor.get_distribution(obs).log_prob(u)
        return soft_q(self.critic(obs), log_prob, self.temperature).cpu().numpy()

    @property
    def temperature(self) -> float:
        """Alpha as it is now."""
        return temperature(self).item()

    def take_temperature(self, variables: Mapping[str, Tensor]) -> None:
        """
        Start from another model's alpha, where this one's is learned.

        :param variables: what SB3 saved beside its networks: ``log_ent_coef`` or ``ent_coef_tensor``
        """
        if self.log_ent_coef is not None:
            learned = variables.get("log_ent_coef")
            self.log_ent_coef.data.copy_(variables["ent_coef_tensor"].log() if learned is None else learned.data)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """As SB3's (2.9, `OffPolicyAlgorithm`), but for what is stored: the flow's own u, not tanh^-1 of the action."""
        if self.random_start and self.num_timesteps < learning_starts:
            _, u = super()._sample_action(learning_starts, None, n_envs)
        else:
            obs, _ = self.policy.obs_to_tensor(self._last_obs)
            with torch.no_grad():
                u = self.policy._predict(obs).cpu().numpy().reshape(-1, *self.action_space.shape)
        if action_noise is not None:
            u = np.arctanh(np.clip(np.tanh(u) + action_noise(), EDGE - 1, 1 - EDGE))
        return self.policy.unscale_action(u), u


def _schedule(ent_coef: Any) -> Schedule | None:
    """
    None where alpha is learned. A number is a schedule too, so that ``NFQ.load(path, ent_coef=0.1)`` holds.

    :raises ValueError: for what is none, or not above zero
    """
    schedule = ent_coef if callable(ent_coef) else _parsed(ent_coef)
    if not (0 < schedule(1.0) < math.inf and 0 <= schedule(0.0) < math.inf):
        raise ValueError(
            'ent_coef must be above zero (a number, "linear_0.2_0.02", a schedule, "auto" or "auto_0.1"), got '
            f"{ent_coef!r}: Q = V + alpha log pi, by which pi learns."
        )
    return None if isinstance(ent_coef, str) and ent_coef.startswith("auto") else schedule


def _parsed(ent_coef: Any) -> Schedule:
    """The schedule of a number or a text, that of NaN for anything else; where alpha is learned, its first value."""
    try:
        if not isinstance(ent_coef, str):
            return ConstantSchedule(float(ent_coef))
        if ent_coef.startswith(PREFIX):
            return linear_schedule(ent_coef)
        return ConstantSchedule(1.0 if ent_coef == "auto" else float(ent_coef.removeprefix("auto_")))
    except (TypeError, ValueError):
        return ConstantSchedule(math.nan)
