"""Behaviour cloning."""

from flowrl.algorithms.cloning.behaviour_cloning import BehaviourCloning, Demonstrations

__all__ = ["BehaviourCloning", "Demonstrations"]
