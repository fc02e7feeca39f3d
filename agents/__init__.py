"""The named agents: an algorithm of Stable-Baselines3, a policy, and hyperparameters; no mathematics.

=============  =========  ===========================================================
name           algorithm  policy
=============  =========  ===========================================================
``flow-sac``   SAC        ``FlowPolicy`` (``FlowCnnPolicy``, ``FlowMultiInputPolicy``)
``flow-ppo``   PPO        the same
``nfac``       NFAC       the same, whose critics give the return's distribution
``nfq``        NFQ        the same, whose flow is the soft Q-function too
``snf``        SNF        the same, with noise between the flow's layers; on PPO, A2C or TRPO
``sac``        SAC        Stable-Baselines3's own Gaussian ``MlpPolicy`` (and so on)
``ppo``        PPO        the same
``flow-bc``    cloning    that of ``flow-sac``
``bc``         cloning    that of ``sac``
=============  =========  ===========================================================

``--flow gaussian`` gives the flow agents a Gaussian in the same networks, code and update.
"""

from agents.agent import AGENTS, Agent, find_agent, make_agent
from agents.hyperparameters import (
    BC_DEFAULTS,
    NFQ_DEFAULTS,
    PPO,
    PPO_DEFAULTS,
    SAC,
    SAC_DEFAULTS,
    hyperparameters,
    model_arguments,
)

__all__ = [
    "AGENTS",
    "BC_DEFAULTS",
    "NFQ_DEFAULTS",
    "PPO",
    "PPO_DEFAULTS",
    "SAC",
    "SAC_DEFAULTS",
    "Agent",
    "find_agent",
    "hyperparameters",
    "make_agent",
    "model_arguments",
]
