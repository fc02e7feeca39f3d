"""Soft Actor-Critic."""

from flowrl.algorithms.sac.sac import SAC

__all__ = ["SAC"]
