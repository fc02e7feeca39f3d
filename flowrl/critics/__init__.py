"""Who judges: critics that are more than a network with one output."""

from flowrl.critics.soft_q import SoftValues, soft_q

__all__ = ["SoftValues", "soft_q"]
