"""Somebody else's flow in the place of one of flowrl's recipes: one file a library."""

from flowrl.adapters.adapt import adapt
from flowrl.adapters.distribution import ExternalDistribution
from flowrl.adapters.external import ExternalLayer

__all__ = ["ExternalDistribution", "ExternalLayer", "adapt"]
