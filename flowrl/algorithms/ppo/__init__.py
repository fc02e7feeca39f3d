"""Proximal Policy Optimization."""

from flowrl.algorithms.ppo.ppo import PPO

__all__ = ["PPO"]
