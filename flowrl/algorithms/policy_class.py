"""Which policies are made for which algorithm: NFQ, NFAC and SNF take their own alone, and no other takes these; PPO's
and SAC's are not each other's."""

from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from flowrl.policies.return_critic import NFACPolicyMixin
from flowrl.policies.soft_q import SoftQPolicyMixin
from flowrl.policies.stochastic_on_policy import StochasticFlowActorCriticMixin

OWN = {SoftQPolicyMixin: "NFQ", NFACPolicyMixin: "NFAC", StochasticFlowActorCriticMixin: "SNF"}


def check_policy_class(model: Any, algorithm: str | None) -> None:
    """
    :param model: an algorithm of SB3's form
    :param algorithm: the one whose policies it needs; None: any that is no one's own
    :raises TypeError: for a policy of another algorithm, also in a model that was loaded from another's file
    """
    made_for = next((name for mixin, name in OWN.items() if issubclass(model.policy_class, mixin)), None)
    of_other_kind = isinstance(model, OnPolicyAlgorithm) != issubclass(model.policy_class, ActorCriticPolicy)
    if made_for != algorithm or of_other_kind:
        raise TypeError(
            f"{type(model).__name__} has no use for a {model.policy_class.__name__}, which is made for "
            f'{made_for or "other algorithms"}: give it "FlowPolicy" (images: "FlowCnnPolicy", dictionaries: '
            '"FlowMultiInputPolicy"), and load a file with the class that saved it.'
        )
