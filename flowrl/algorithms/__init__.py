"""Who learns: one folder an algorithm, each on Stable-Baselines3's interface."""

from flowrl.algorithms.cloning import BehaviourCloning, Demonstrations
from flowrl.algorithms.ppo import PPO
from flowrl.algorithms.sac import SAC

__all__ = ["PPO", "SAC", "BehaviourCloning", "Demonstrations"]
