"""Who learns: one folder an algorithm, each on Stable-Baselines3's interface."""

from flowrl.algorithms.cloning import BehaviourCloning, Demonstrations
from flowrl.algorithms.nfac import NFAC
from flowrl.algorithms.nfq import NFQ
from flowrl.algorithms.offline import Transitions
from flowrl.algorithms.ppo import PPO
from flowrl.algorithms.sac import SAC
from flowrl.algorithms.snf import SNF

__all__ = ["NFAC", "NFQ", "PPO", "SAC", "SNF", "BehaviourCloning", "Demonstrations", "Transitions"]
