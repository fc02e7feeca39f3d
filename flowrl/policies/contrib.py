"""Flow policies for sb3-contrib's TQC and CrossQ (TRPO takes PPO's); imported only where sb3-contrib is installed."""

from sb3_contrib.crossq import policies as crossq
from sb3_contrib.tqc import policies as tqc

from flowrl.policies.off_policy import FlowActorMixin, FlowActorPolicyMixin


class FlowTQCActor(FlowActorMixin, tqc.Actor):
    """TQC's actor with a flow."""


class FlowTQCPolicy(FlowActorPolicyMixin, tqc.TQCPolicy):
    """TQC's policy with a flow."""

    actor_class = FlowTQCActor


class FlowTQCCnnPolicy(FlowActorPolicyMixin, tqc.CnnPolicy):
    """TQC's image policy with a flow."""

    actor_class = FlowTQCActor


class FlowTQCMultiInputPolicy(FlowActorPolicyMixin, tqc.MultiInputPolicy):
    """TQC's policy for dictionaries of observations, with a flow."""

    actor_class = FlowTQCActor


class FlowCrossQActor(FlowActorMixin, crossq.Actor):
    """CrossQ's actor with a flow."""


class FlowCrossQPolicy(FlowActorPolicyMixin, crossq.CrossQPolicy):
    """CrossQ's policy with a flow (CrossQ itself has no image or dictionary policy)."""

    actor_class = FlowCrossQActor
