"""What every update says where a loss is not a number."""

import math
from collections.abc import Mapping


def check_losses(losses: Mapping[str, float], step: int) -> None:
    """
    :param losses: of an update, by name
    :param step: of training
    :raises ValueError: if one is NaN or infinite
    """
    wrong = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise ValueError(
            f"A loss is not finite at step {step} ({', '.join(wrong)}). Either an observation or a reward is NaN or "
            "huge (check the environment, wrap it in stable_baselines3.common.vec_env.VecCheckNan) or training has "
            "diverged (lower learning_rate, normalise observations and rewards with VecNormalize); go on from the last "
            "checkpoint."
        )
