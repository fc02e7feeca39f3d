"""SNF on sb3-contrib's TRPO; imported only where sb3-contrib is installed."""

from sb3_contrib import TRPO

from flowrl.algorithms.snf.snf import SNF


class SNFOnTRPO(SNF, TRPO):
    """SNF on trust region policy optimization, sb3-contrib's."""

    base = "trpo"
