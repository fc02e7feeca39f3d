"""Stable-Baselines3's algorithms on a faster path: the same mathematics, interface and saved models; and cloning."""

from flowrl.algorithms.behaviour_cloning import BehaviourCloning, Demonstrations
from flowrl.algorithms.ppo import PPO
from flowrl.algorithms.sac import SAC

__all__ = ["PPO", "SAC", "BehaviourCloning", "Demonstrations"]
