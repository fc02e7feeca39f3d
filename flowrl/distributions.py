"""`FlowDistribution`: Stable-Baselines3's distribution interface over a flow."""

from __future__ import annotations

import copy
from typing import Any

from stable_baselines3.common.distributions import Distribution
from torch import Tensor

from flowrl.action_flow import ActionFlow
from flowrl.flow import Flow
from flowrl.native.flow import Program, Step, StepKind
from flowrl.recipes import DEFAULT_FLOW, AnyFlow
from flowrl.reparameterized import ReparameterizedDistribution


class FlowDistribution(Distribution):
    """Actions in [-1, 1]^d from a flow squashed by tanh, with their exact log-prob.

    Immutable: `proba_distribution` returns a new object for each batch of states.

    :param action_dim: d
    :param flow: a recipe's name, a builder, or a list of transforms (see :class:`flowrl.Flow`)
    :param flow_kwargs: options of the recipe
    :param squash: False: actions are unbounded and in the environment's own units
    :param pre_squash: whether actions are stored and scored before the tanh (on-policy algorithms)
    """

    distribution: ActionFlow

    def __init__(
        self,
        action_dim: int,
        flow: AnyFlow = DEFAULT_FLOW,
        flow_kwargs: dict[str, Any] | None = None,
        squash: bool = True,
        pre_squash: bool = False,
    ):
        super().__init__()
        self.action_dim = action_dim
        self.flow = flow
        self.flow_kwargs = flow_kwargs or {}
        self.squash = squash
        self.pre_squash = pre_squash

    def proba_distribution_net(self, latent_dim: int) -> Flow:
        """The trainable part: a flow conditional on the policy's latent features.

        :param latent_dim: size of the last layer of the policy's network
        """
        return Flow(self.action_dim, latent_dim, self.flow, **self.flow_kwargs)

    def proba_distribution(self, flow: ReparameterizedDistribution) -> FlowDistribution:
        """The distribution for a batch of states.

        :param flow: what the net returned for their latent features
        """
        bound = copy.copy(self)
        bound.distribution = ActionFlow(flow, squash=self.squash, pre_squash=self.pre_squash)
        return bound

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.distribution.log_prob(actions.reshape(-1, self.action_dim))

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        """One action per state and its log-prob, in one differentiable pass."""
        return self.distribution.rsample_and_log_prob()

    def entropy(self, n_samples: int = 1) -> Tensor:
        """Reparameterised estimate of the action's differential entropy, with a gradient, shape ``(batch,)``."""
        return self.distribution.entropy(n_samples)

    def sample(self) -> Tensor:
        return self.distribution.rsample()

    def mode(self) -> Tensor:
        """The base's mean pushed through the flow: the deterministic action, not in general the densest one."""
        return self.distribution.mode()

    def get_actions(self, deterministic: bool = False) -> Tensor:
        """Actions to execute.

        :raises ValueError: where the policy gives NaN or infinity instead of an action
        """
        return check_finite(super().get_actions(deterministic))

    def box_actions(self, actions: Tensor) -> Tensor:
        """Emitted actions as executed, in [-1, 1] where squashed."""
        return self.distribution.executed(actions)

    def diagnostics(self, center: float | Tensor = 0.0, half: float | Tensor = 1.0) -> dict[str, float]:
        """See :meth:`flowrl.action_flow.ActionFlow.diagnostics`."""
        return self.distribution.diagnostics(center, half)

    def actions_from_params(self, flow: ReparameterizedDistribution, deterministic: bool = False) -> Tensor:
        return self.proba_distribution(flow).get_actions(deterministic=deterministic)

    def log_prob_from_params(self, flow: ReparameterizedDistribution) -> tuple[Tensor, Tensor]:
        return self.proba_distribution(flow).rsample_and_log_prob()


def action_program(flow: Flow, distribution: Distribution) -> Program | None:
    """
    The C kernel's steps from noise to the actions that a policy emits, and their log-density.

    :param flow: the policy's
    :param distribution: how its actions are squashed
    :return: None where the kernel does not know the flow, or the distribution is somebody's own
    """
    if flow.program is None or type(distribution) is not FlowDistribution:
        return None
    squash = [Step(StepKind.SQUASH, 0, int(distribution.pre_squash))] if distribution.squash else []
    return Program([*flow.program.steps, *squash], flow.program.limits)


def check_finite(actions: Tensor) -> Tensor:
    """The actions themselves.

    :param actions: of a policy
    :raises ValueError: if one is NaN or infinite
    """
    if not actions.isfinite().all():
        raise ValueError(
            "The flow policy's action is not finite. Either the observations hold NaN (check the environment, wrap "
            "it in stable_baselines3.common.vec_env.VecCheckNan) or training has diverged (lower learning_rate, "
            "normalise observations and rewards with VecNormalize); go on from the last checkpoint."
        )
    return actions
