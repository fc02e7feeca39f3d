"""SNF: a policy gradient (PPO, A2C, TRPO) with a stochastic normalizing flow."""

from flowrl.algorithms.snf.path_buffers import PathDictRolloutBuffer, PathRolloutBuffer, PathRolloutMixin
from flowrl.algorithms.snf.snf import SNF, on_base

__all__ = ["SNF", "PathDictRolloutBuffer", "PathRolloutBuffer", "PathRolloutMixin", "on_base"]
