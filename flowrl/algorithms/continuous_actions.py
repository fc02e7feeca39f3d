"""What algorithms for continuous actions say of others, where SB3 has a bare assertion."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv


class ContinuousActionsMixin:
    """
    An algorithm of SB3's form that refuses other action spaces.

    :raises ValueError: in its constructor, for an action space that is not continuous
    """

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As SB3's (2.9, `BaseAlgorithm`), which then asserts that actions are continuous, without a cure."""
        env = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        if not isinstance(env.action_space, spaces.Box):
            raise ValueError(
                "SAC, NFAC, NFQ and BehaviourCloning need a continuous action space (gymnasium.spaces.Box), got "
                f'{env.action_space}; for discrete actions take SB3\'s DQN, PPO or A2C with "MlpPolicy".'
            )
        return env
