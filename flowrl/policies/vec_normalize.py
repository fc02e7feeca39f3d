"""The `VecNormalize` of Stable-Baselines3 that stands before a model's policy."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize


def vec_normalize_of(model: BaseAlgorithm) -> VecNormalize | None:
    """
    :param model: any
    :return: what normalises the observations that its policy sees; None where nothing does
    :raises ValueError: if the policy sees observations of another shape than those that are normalised
    """
    env: Any = model.get_vec_normalize_env()
    if env is None or not env.norm_obs:
        return None
    if not is_right_before(env, model):
        raise ValueError(
            f"VecNormalize normalises {env.observation_space}, but the policy sees {model.observation_space}: a "
            "wrapper around VecNormalize changes observations. Put VecNormalize outermost, as in "
            "VecNormalize(VecFrameStack(env, 4)), or let the policy normalise: "
            "policy_kwargs=dict(normalize_observations=True)."
        )
    return env


def is_right_before(env: VecNormalize, model: BaseAlgorithm) -> bool:
    """
    :param env: that normalises observations
    :param model: that acts in it, or in a wrapper around it
    :return: whether its statistics have the shapes of what the policy sees
    """
    space: Any = model.observation_space
    if isinstance(env.obs_rms, dict):
        parts = getattr(space, "spaces", {})
        return all(key in parts and parts[key].shape == of.mean.shape for key, of in env.obs_rms.items())
    return space.shape == env.obs_rms.mean.shape
