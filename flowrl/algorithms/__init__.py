"""Stable-Baselines3's algorithms on a faster path: the same mathematics, interface and saved models."""

from flowrl.algorithms.ppo import PPO
from flowrl.algorithms.sac import SAC

__all__ = ["PPO", "SAC"]
