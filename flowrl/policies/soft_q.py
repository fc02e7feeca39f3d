"""Policies of NFQ: SAC's with a flow, whose critics are networks of the state alone."""

from typing import Any

from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac import policies as sac

from flowrl.critics.soft_q import SoftValues
from flowrl.options import whole
from flowrl.policies.off_policy import FlowActorMixin, FlowActorPolicyMixin
from flowrl.policies.pre_squash import PreSquashMixin

LOG_STD_MAX = -1.0
"""Of the flow, so that its Gaussian is nowhere wider than N(0, 1). Where one of deviation s is squashed, the density of
actions rises towards the edges of the box by up to 2 s^2 nats, in a strip that hardly any replayed action hits: a wide
flow could keep most of its mass there, unseen, and make up for it by values that are too high."""


class SoftQActor(FlowActorMixin, sac.Actor):
    """The flow pi, which emits and scores u = atanh(a)."""

    pre_squash = scores_actions = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.flow.log_std_max = min(self.flow.log_std_max, LOG_STD_MAX)


class SoftQPolicyMixin(PreSquashMixin, FlowActorPolicyMixin):
    """Turns a policy of SAC's form (SB3 2.9) into NFQ's: flow pi and networks V_i (``n_critics`` of them).

    :param flow: see :class:`flowrl.Flow`, ``"nsf"`` by default; its densities of given actions are what is trained
    :param deterministic_action: ``"densest"``: of ``n_candidates`` samples and the mean, that of the highest log pi,
        hence of the highest Q (``"best"`` is another word for it); ``"mean"``; ``"average"``, see
        :class:`flowrl.policies.action_distribution.FlowDistribution`
    :param n_candidates: how many are compared, or averaged
    :raises ValueError: for ``n_critics`` below one, too
    """

    actor_class = SoftQActor
    default_flow = "nsf"  # which can show more than one mode

    def __init__(self, *args: Any, deterministic_action: str = "densest", **kwargs: Any):
        if deterministic_action == "best":  # Q - V is alpha log pi
            deterministic_action = "densest"
        super().__init__(*args, deterministic_action=deterministic_action, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        whole("n_critics", self.critic_kwargs["n_critics"], 1)
        return SoftValues(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)


class SoftQPolicy(SoftQPolicyMixin, sac.SACPolicy):
    """NFQ's policy."""


class SoftQCnnPolicy(SoftQPolicyMixin, sac.CnnPolicy):
    """NFQ's policy of images."""


class SoftQMultiInputPolicy(SoftQPolicyMixin, sac.MultiInputPolicy):
    """NFQ's policy of dictionaries of observations."""
