"""NFQ: a normalizing flow as the soft Q-function."""

from flowrl.algorithms.nfq.nfq import NFQ

__all__ = ["NFQ"]
