"""NFAC: a flow actor, and a flow of the return as its critic."""

from flowrl.algorithms.nfac.nfac import NFAC

__all__ = ["NFAC"]
