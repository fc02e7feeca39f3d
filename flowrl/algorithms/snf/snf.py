r"""SNF: a policy gradient with a stochastic normalizing flow.

A policy whose flow has noise layers does not know the density of its actions, which is an integral over all paths
that lead to one. It knows that of a path (:class:`flowrl.flows.path.PathFlow`), and the path is enough. Let a decision
process have the whole path :math:`\omega = (w_0, ..., w_{K-1}, a)` for its action, and an environment that looks at a
alone. Returns, values and advantages are those of the old process; its policy's density is
:math:`p_\theta(\omega \mid s)`, exact, and every policy gradient holds in it as it stands:

.. math:: \nabla J = E[A(s, a) \, \nabla \log p_\theta(\omega \mid s)], \qquad
          \text{ratio} = \frac{p_\theta(\omega \mid s)}{p_{\theta_{old}}(\omega \mid s)}

The expectation of the path's score given its action is the score of the action's own density, so that the gradient is
the same, with more variance. The divergence between two policies' paths bounds that between their actions from above
(data processing): PPO's and TRPO's trust regions are, if anything, narrower than they say.

So the rollout stores paths, and SB3's PPO, A2C and TRPO (sb3-contrib's) compute the rest unchanged:

- PPO: eq. 7 of Schulman et al. 2017 on that ratio;
- TRPO: the KL divergence and, by its Hessian, the Fisher-vector products come from the stored paths (Tang and Agrawal
  2018; :func:`flowrl.policies.action_distribution.kl_on_scored`);
- the entropy bonus (``ent_coef`` of PPO and A2C) is a lower bound of the action's entropy, by learned backward kernels
  (:meth:`flowrl.policies.action_path.ActionPath.entropy_bound`).
"""

import importlib.util
from typing import Any, ClassVar

import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file

from flowrl.algorithms.policy_class import check_policy_class
from flowrl.algorithms.ppo import PPO
from flowrl.algorithms.snf.path_buffers import PathDictRolloutBuffer, PathRolloutBuffer, PathRolloutMixin
from flowrl.flows.path import NOISE_LAYERS
from flowrl.options import whole
from flowrl.policies.stochastic_on_policy import (
    StochasticFlowActorCriticCnnPolicy,
    StochasticFlowActorCriticPolicy,
    StochasticFlowMultiInputActorCriticPolicy,
)


class SNF(OnPolicyAlgorithm):
    """
    A policy gradient with a stochastic normalizing flow, on the algorithm of one's choice::

        SNF("FlowPolicy", env, base="ppo", policy_kwargs=dict(flow="nsf", noise_layers=1))

    An object of this class is of a subclass of it and of the base's class, which says which further arguments there
    are. With ``noise_layers=0`` it is that algorithm with a flow policy, to the bit; on PPO in C where that can be.

    :param policy: ``"FlowPolicy"``, ``"FlowCnnPolicy"``, ``"FlowMultiInputPolicy"``, or a class of
        :mod:`flowrl.policies.stochastic_on_policy`
    :param env: the environment; its actions are continuous
    :param base: ``"ppo"`` (flowrl's; the default), ``"a2c"`` (SB3's) or ``"trpo"`` (sb3-contrib's)
    :param kwargs: the base's
    :raises ValueError: for another base, or a ``rollout_buffer_class`` that has no room for paths
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "FlowPolicy": StochasticFlowActorCriticPolicy,
        "FlowCnnPolicy": StochasticFlowActorCriticCnnPolicy,
        "FlowMultiInputPolicy": StochasticFlowMultiInputActorCriticPolicy,
    }

    base: str = "ppo"
    own_policies: ClassVar[str | None] = "SNF"

    def __new__(cls, *args: Any, base: str | None = None, **kwargs: Any) -> "SNF":
        if cls is not SNF and cls.train is OnPolicyAlgorithm.train:
            raise TypeError(f"{cls.__name__} has no algorithm: derive it from SNFOnPPO, SNFOnA2C or on_base('trpo').")
        return super().__new__(on_base(base or SNF.base) if cls is SNF else cls)

    def __init__(self, *args: Any, base: str | None = None, **kwargs: Any):
        if base not in (None, type(self).base):
            raise ValueError(f"{type(self).__name__} is of base={type(self).base!r}, got base={base!r}: make an SNF.")
        self.base = type(self).base  # the object's own, so that it is saved
        super().__init__(*args, **kwargs)

    @classmethod
    def load(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """See SB3's `BaseAlgorithm.load`; the file says which base it is."""
        data, _, _ = load_from_zip_file(path, device="cpu", custom_objects=kwargs.get("custom_objects"))
        saved = on_base((data or {}).get("base", SNF.base))
        if (given := kwargs.pop("base", None)) not in (None, saved.base):
            raise ValueError(f"The model in the file is of base={saved.base!r}, got base={given!r}: make a new SNF.")
        return super(SNF, cls if issubclass(cls, saved) else saved).load(path, *args, **kwargs)

    def _setup_model(self) -> None:
        check_policy_class(self, self.own_policies)
        noise_layers = whole("noise_layers", self.policy_kwargs.get("noise_layers", NOISE_LAYERS), 0)
        if noise_layers:
            if self.rollout_buffer_class is None:
                is_dict = isinstance(self.observation_space, spaces.Dict)
                self.rollout_buffer_class = PathDictRolloutBuffer if is_dict else PathRolloutBuffer
            elif not issubclass(self.rollout_buffer_class, PathRolloutMixin):
                raise ValueError(
                    f"rollout_buffer_class={self.rollout_buffer_class.__name__} has no room for paths: derive it from "
                    "PathRolloutMixin, too, or take noise_layers=0."
                )
        if issubclass(self.rollout_buffer_class or object, PathRolloutMixin):
            self.rollout_buffer_kwargs = self.rollout_buffer_kwargs | dict(noise_layers=noise_layers)
        super()._setup_model()


class SNFOnPPO(SNF, PPO):
    """SNF on proximal policy optimization, flowrl's."""


class SNFOnA2C(SNF, stable_baselines3.A2C):
    """SNF on advantage actor-critic, SB3's."""

    base = "a2c"


def on_base(base: str) -> type[SNF]:
    """
    :param base: ``"ppo"``, ``"a2c"`` or ``"trpo"``
    :return: the class of SNF on it
    :raises ValueError: for another, or where sb3-contrib is missing
    """
    if base == "trpo":
        if importlib.util.find_spec("sb3_contrib") is None:
            raise ValueError("base='trpo' needs sb3-contrib: pip install sb3-contrib (or take base='ppo').")
        from flowrl.algorithms.snf.trpo import SNFOnTRPO

        return SNFOnTRPO
    bases: dict[str, type[SNF]] = {"ppo": SNFOnPPO, "a2c": SNFOnA2C}
    if not isinstance(base, str) or base not in bases:
        raise ValueError(f"base must be 'ppo', 'a2c' or 'trpo', got {base!r}.")
    return bases[base]
