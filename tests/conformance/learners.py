"""The one table of what must behave as Stable-Baselines3 does, and of what each learner does not do by design."""

from dataclasses import dataclass, field
from typing import Any

from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, PPO, SAC

import flowrl  # noqa: F401
from flowrl import algorithms
from tests.environments import Aim

STEPS = 8
"""Long enough for every learner to have updated itself."""

OFF_POLICY = dict(learning_starts=3, train_freq=4, batch_size=4, buffer_size=200)
MINIBATCHES = dict(n_steps=8, batch_size=4, n_epochs=1)

GAUSSIAN = {"FlowPolicy": "MlpPolicy", "FlowCnnPolicy": "CnnPolicy", "FlowMultiInputPolicy": "MultiInputPolicy"}
"""SB3's own policies, which ``--gaussian`` puts through the same checks."""


@dataclass(frozen=True)
class Refusal:
    """What a learner does not do, by design.

    :param reason: for the reader of docs/conformance.md
    :param error: that is raised at once
    :param message: what it says, a regular expression
    """

    reason: str
    error: type[Exception]
    message: str


GSDE = Refusal(
    "gSDE replaces the noise whose density the flow computes",
    ValueError,
    "use_sde=True is not available for flow policies",
)
INTEGERS = Refusal(
    "SB3's buffers would cut the stored actions to integers", ValueError, "whole numbers.*TransformAction"
)
ALL = {"gSDE": GSDE, "actions of whole numbers": INTEGERS}
NO_SUCH_POLICY = Refusal("CrossQ itself has this policy for vectors alone", ValueError, "Policy .* unknown")
OWN_OF_CROSSQ = {"images": NO_SUCH_POLICY, "dictionaries": NO_SUCH_POLICY}
NO_ROOM = Refusal(
    "a rollout stores the whole path of noise that leads to an action", ValueError, "has no room for paths"
)
OWN_OF_SNF = {"rollout buffers without room for paths": NO_ROOM}


@dataclass(frozen=True)
class Learner:
    """An algorithm with a flow policy.

    :param name: as docs/conformance.md has it
    :param algorithm: its class
    :param settings: that make it fast
    :param refuses: what it does not do, by name
    :param like: the algorithm of SB3 or sb3-contrib whose logs and options it shares, itself where it is theirs
    :param without: of that algorithm's logged keys, those that it has no use for
    :param small: of its policy's arguments, those that make it cheap
    :param gaussian: whether it has SB3's own policy instead, as a control
    """

    name: str
    algorithm: Any
    settings: dict[str, Any]
    like: Any
    refuses: dict[str, Refusal] = field(default_factory=lambda: dict(ALL))
    without: frozenset[str] = frozenset()
    small: dict[str, Any] = field(default_factory=dict)
    gaussian: bool = False

    @property
    def off_policy(self) -> bool:
        """Whether it has a replay buffer."""
        return "learning_starts" in self.settings

    def policy(self, name: str) -> str:
        """The policy's name, of the Gaussian one where this is a control."""
        return GAUSSIAN[name] if self.gaussian else name

    def make(self, env: Any = None, policy: str = "FlowPolicy", policy_kwargs: Any = None, **kwargs: Any) -> Any:
        """
        A small model.

        :param env: of `Aim`'s form where none is given
        :param policy: name of the flow policy
        :param policy_kwargs: beside a network of one layer
        :param kwargs: of the algorithm
        """
        small = dict(net_arch=[8]) | self.small
        given = self.settings | dict(seed=0, device="cpu") | kwargs
        env = Aim() if env is None else env
        return self.algorithm(self.policy(policy), env, policy_kwargs=small | (policy_kwargs or {}), **given)


def _learner(name: str, algorithm: Any, like: Any, settings: dict[str, Any], **kwargs: Any) -> Learner:
    return Learner(name, algorithm, settings, like, **kwargs)


_trpo = dict(n_steps=8, batch_size=8, n_critic_updates=1, cg_max_steps=1, line_search_max_iter=2)
_table = [
    _learner("SAC", SAC, SAC, OFF_POLICY),
    _learner("TQC", TQC, TQC, OFF_POLICY, small=dict(n_quantiles=3)),
    _learner("CrossQ", CrossQ, CrossQ, OFF_POLICY, refuses=ALL | OWN_OF_CROSSQ),
    _learner("PPO", PPO, PPO, MINIBATCHES),
    _learner("A2C", A2C, A2C, dict(n_steps=8)),
    _learner("TRPO", TRPO, TRPO, _trpo, small=dict(flow="affine")),
    _learner("flowrl SAC", algorithms.SAC, SAC, OFF_POLICY),
    _learner("flowrl PPO", algorithms.PPO, PPO, MINIBATCHES),
    _learner("NFQ", algorithms.NFQ, SAC, OFF_POLICY, without=frozenset({"train/actor_loss", "train/ent_coef_loss"})),
    _learner("NFAC", algorithms.NFAC, SAC, OFF_POLICY),
    _learner("SNF", algorithms.SNF, PPO, MINIBATCHES, refuses=ALL | OWN_OF_SNF),
]
LEARNERS = {learner.name: learner for learner in _table}
