"""The distribution of the action that the environment executes, a flow squashed by tanh onto [-1, 1]^d or not; and
Stable-Baselines3's interface to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from stable_baselines3.common.distributions import Distribution
from torch import Tensor
from torch.distributions.kl import register_kl

from flowrl.diverged import Diverged
from flowrl.flows.distribution import NormalizingFlow, ReparameterizedDistribution, candidate_noise
from flowrl.flows.flow import Flow
from flowrl.flows.recipes import DEFAULT_FLOW, AnyFlow
from flowrl.transforms import TanhBox

SQUASH = TanhBox()
SATURATED = 0.99  # |a| above this counts as saturated in the diagnostics


class ActionFlow(ReparameterizedDistribution):
    """Exact density of a = tanh(u), u from a flow; addressed by a itself, or by u where ``pre_squash``.

    On-policy algorithms store what the policy emits and score it later: they get u, since tanh rounds to one in
    float32 from |u| = 9 and cannot be undone. The density is that of the action a either way.

    :param flow: distribution of u
    :param squash: whether a = tanh(u), else a = u
    :param pre_squash: whether samples and scored values are u rather than a
    """

    def __init__(self, flow: ReparameterizedDistribution, squash: bool, pre_squash: bool):
        super().__init__(flow.batch_shape, flow.event_shape[0])
        self.flow = flow
        self.squash = SQUASH if squash else None
        self.pre_squash = pre_squash
        # What log_prob was last asked, which TRPO's KL estimate reuses (SB3's KL is not told the stored actions).
        self.scored: tuple[Tensor, Tensor] | None = None

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        return self._squashed(*self.flow.rsample_and_log_prob(sample_shape))

    def candidates(self, n: int) -> tuple[Tensor, Tensor]:
        return self._squashed(*self.flow.candidates(n))

    def candidates_of(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`flowrl.flows.distribution.NormalizingFlow.candidates_of`."""
        return self._squashed(*self._own_flow().candidates_of(noise))

    def _squashed(self, u: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        if self.squash is None:
            return u, log_prob
        a, ladj = self.squash.call_and_ladj(u)
        return (u if self.pre_squash else a), log_prob - ladj

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self._emit(self.flow.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """
        :param value: a (u where ``pre_squash``), shape ``(*batch, d)``
        :return: log-density of the action a, shape ``(*batch,)``
        """
        if self.squash is None:
            log_prob = self.flow.log_prob(value)
        elif self.pre_squash:
            log_prob = self.flow.log_prob(value)
            # In the flow's precision, whatever that is in which the actions were stored
            log_prob = log_prob - self.squash.call_and_ladj(value.to(log_prob.dtype))[1]
        else:
            u, ladj = self.squash.inverse_and_ladj(value)
            log_prob = self.flow.log_prob(u) - ladj
        self.scored = (value, log_prob)
        return log_prob

    def from_noise(self, z: Tensor) -> Tensor:
        """
        :param z: noise, shape ``(*batch, d)``
        :return: the action that it becomes (u where ``pre_squash``), of the same shape
        :raises ValueError: for a flow of another library, whose noise is its own
        """
        return self._emit(self._own_flow().from_noise(z))

    def from_noise_and_log_prob(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param z: noise, shape ``(*batch, d)``
        :return: as `from_noise`, and the log-density of the action, shape ``(*batch,)``
        :raises ValueError: for a flow of another library, whose noise is its own
        """
        return self._squashed(*self._own_flow().from_noise_and_log_prob(z))

    def to_noise(self, value: Tensor) -> Tensor:
        """
        :param value: a (u where ``pre_squash``), shape ``(*batch, d)``
        :return: the noise that becomes it, of the same shape
        :raises ValueError: for a flow of another library, whose noise is its own
        """
        if self.squash is not None and not self.pre_squash:
            value = self.squash.inverse_and_ladj(value)[0]
        return self._own_flow().to_noise(value)

    def _own_flow(self) -> NormalizingFlow:
        if not isinstance(self.flow, NormalizingFlow):
            raise ValueError(f"{type(self.flow).__name__} keeps its noise to itself: take one of flowrl's recipes.")
        return self.flow

    def center(self) -> Tensor:
        return self._emit(self.flow.center())

    def average(self, n: int) -> Tensor:
        """An estimate of the mean of the action a, the same in every call; of a flow of this library see `average_of`.

        :param n: from how many draws
        :return: as samples are, shape ``(*batch, d)``
        """
        if isinstance(self.flow, NormalizingFlow):
            return self.average_of(candidate_noise(n, self.event_shape[0]))
        return self._average(self.candidates(n)[0][1:])

    def average_of(self, noise: Tensor) -> Tensor:
        """The mean of what draws of noise and their mirror images become: exact where that is linear in the noise.

        :param noise: of :func:`candidate_noise`, shape ``(n + 1, d)``
        :return: as samples are, shape ``(*batch, d)``
        """
        return self._average(self.candidates_of(torch.cat((noise[1:], -noise[1:])))[0])

    def _average(self, emitted: Tensor) -> Tensor:
        mean = self.executed(emitted).mean(0)
        return mean if self.squash is None or not self.pre_squash else self.squash.inverse_and_ladj(mean)[0]

    def executed(self, value: Tensor) -> Tensor:
        """The action a of an emitted value, in [-1, 1] where squashed."""
        return torch.tanh(value) if self.squash is not None and self.pre_squash else value

    @torch.no_grad()
    def diagnostics(self, center: float | Tensor = 0.0, half: float | Tensor = 1.0) -> dict[str, float]:
        """One sample per state, summed up: entropy (nats), saturated fraction, range of the log-det.

        The log-det is that of the flow, noise to u; a flow of another library need not have one.

        :param center: middle of the box of actions, where they are not squashed
        :param half: half its width; the density is that on [-1, 1] once the box is scaled to it
        """
        u, log_prob = self.flow.rsample_and_log_prob()
        a = u
        if self.squash is not None:
            a, ladj = self.squash.call_and_ladj(u)
            log_prob = log_prob - ladj
        half = torch.as_tensor(half, dtype=u.dtype, device=u.device).expand(u.shape[-1])
        a, log_prob = (a - center) / half, log_prob + half.log().sum()
        summary = {
            "entropy": -log_prob.mean().item(),
            "saturation": (a.abs() > SATURATED).float().mean().item(),
        }
        if isinstance(self.flow, NormalizingFlow):
            log_det = self.flow.log_det(u)
            summary |= {"log_det_min": log_det.min().item(), "log_det_max": log_det.max().item()}
        return summary

    def _emit(self, u: Tensor) -> Tensor:
        return u if self.squash is None or self.pre_squash else torch.tanh(u)


Scored = TypeVar("Scored", bound="HasScored")


class HasScored(Protocol):
    """A distribution that remembers what it was last asked to score, and the log-densities that it gave."""

    scored: tuple[Tensor, Tensor] | None


def kl_on_scored(
    p: Scored, q: Scored, score: Callable[[Scored, Tensor], Tensor], draw: Callable[[Scored], tuple[Tensor, Tensor]]
) -> Tensor:
    r"""KL(p || q) = E_q[r log r - (r - 1)], r = p/q, on values of q: those that p has scored, else a fresh draw.

    Every term is non-negative; at p = q its value and gradient are zero and its Hessian is Fisher's, as TRPO needs
    (Tang and Agrawal 2018 estimate a flow policy's KL from samples, too). It has no gradient in q, and q's score of the
    same values is kept: TRPO's line search moves the weights of the networks that q's layers still read, and q must
    stay what it was.

    :param p: the new distribution
    :param q: the old one
    :param score: log-density of a value under one of them; it leaves both in ``scored``
    :param draw: a value of one of them, and its log-density
    """
    with torch.no_grad():
        if p.scored is None:
            q.scored = draw(q)
        elif q.scored is None or not torch.equal(q.scored[0], p.scored[0]):
            score(q, p.scored[0])
    assert q.scored is not None
    value, log_q = q.scored
    log_p = p.scored[1] if p.scored is not None else score(p, value)
    log_ratio = log_p - log_q.detach()
    return log_ratio.exp() * log_ratio - torch.expm1(log_ratio)


@register_kl(ActionFlow, ActionFlow)
def _kl_on_scored_actions(p: ActionFlow, q: ActionFlow) -> Tensor:
    return kl_on_scored(p, q, ActionFlow.log_prob, ActionFlow.rsample_and_log_prob)


class FlowDistribution(Distribution):
    """Actions in [-1, 1]^d from a flow squashed by tanh, with their exact log-prob.

    Immutable: `proba_distribution` returns a new object for each batch of states.

    :param action_dim: d
    :param flow: a recipe's name, a builder, or a list of transforms (see :class:`flowrl.Flow`)
    :param flow_kwargs: options of the recipe, and of :class:`flowrl.Flow`
    :param squash: False: actions are unbounded and in the environment's own units
    :param pre_squash: whether actions are stored and scored before the tanh (on-policy algorithms)
    :param deterministic_action: ``"mean"``: the base's mean pushed through the flow; ``"average"``: the mean of actions
        from a fixed seed, see :meth:`ActionFlow.average`; ``"densest"``: of the base's mean and samples from a fixed
        seed, that of the highest density; ``"best"``: the policy asks its critic
    :param n_candidates: number of these samples
    """

    distribution: ActionFlow

    def __init__(
        self,
        action_dim: int,
        flow: AnyFlow = DEFAULT_FLOW,
        flow_kwargs: dict[str, Any] | None = None,
        squash: bool = True,
        pre_squash: bool = False,
        deterministic_action: str = "mean",
        n_candidates: int = 16,
    ):
        super().__init__()
        self.deterministic_action = deterministic_action
        self.n_candidates = n_candidates
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
        """The deterministic action: by default the base's mean pushed through, not in general the densest one."""
        if self.deterministic_action == "best":
            raise ValueError('deterministic_action="best" needs a critic: ask the policy, not its actor.')
        if self.deterministic_action == "average":
            return self.distribution.average(self.n_candidates)
        return self.distribution.mode(self.n_candidates if self.deterministic_action == "densest" else 0)

    def get_actions(self, deterministic: bool = False) -> Tensor:
        """Actions to execute.

        :raises ValueError: where the policy gives NaN or infinity instead of an action
        """
        return check_finite(super().get_actions(deterministic))

    def box_actions(self, actions: Tensor) -> Tensor:
        """Emitted actions as executed, in [-1, 1] where squashed."""
        return self.distribution.executed(actions)

    def diagnostics(self, center: float | Tensor = 0.0, half: float | Tensor = 1.0) -> dict[str, float]:
        """See :meth:`flowrl.policies.action_distribution.ActionFlow.diagnostics`."""
        return self.distribution.diagnostics(center, half)

    def actions_from_params(self, flow: ReparameterizedDistribution, deterministic: bool = False) -> Tensor:
        return self.proba_distribution(flow).get_actions(deterministic=deterministic)

    def log_prob_from_params(self, flow: ReparameterizedDistribution) -> tuple[Tensor, Tensor]:
        return self.proba_distribution(flow).rsample_and_log_prob()


def check_finite(actions: Tensor) -> Tensor:
    """The actions themselves.

    :param actions: of a policy
    :raises flowrl.Diverged: if one is NaN or infinite
    """
    if not actions.isfinite().all():
        raise Diverged(
            "The flow policy's action is not finite. Either the observations hold NaN (check the environment, wrap "
            "it in stable_baselines3.common.vec_env.VecCheckNan) or training has diverged (lower learning_rate, "
            "normalise observations and rewards with VecNormalize); go on from the last checkpoint."
        )
    return actions
