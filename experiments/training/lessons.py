"""What a run will not learn, said before it starts rather than found out after hours."""

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


def missing_lessons(config: dict[str, Any], model: BaseAlgorithm, last_step: int) -> Iterator[str]:
    """
    Warnings about a run in which something that was asked for never happens.

    :param config: the run's configuration
    :param model: the model at its start
    :param last_step: the step at which training ends
    :return: sentences without their full stops
    """
    steps, eval_every = config["steps"], config["eval_every"]
    warmup = config.get("critic_warmup", 0)
    if isinstance(model, OffPolicyAlgorithm) and steps <= model.learning_starts:
        yield (
            f"nothing will be learned: the first {model.learning_starts:,} steps take random actions, and the run ends "
            f"at {steps:,}; add --steps {10 * model.learning_starts} or --set learning_starts={steps // 10}"
        )
    elif steps <= warmup:
        yield (
            f"the actor will not learn: until step {warmup:,} the critics learn alone, and the run ends at {steps:,}; "
            f"add --steps {10 * warmup}"
        )
    if isinstance(model, OnPolicyAlgorithm) and (rollout := model.n_steps * model.n_envs) > steps:
        yield (
            f"the run goes on to step {rollout:,}, and learns but once: a rollout is that long; add --steps "
            f"{10 * rollout}"
        )
    if eval_every > last_step:
        yield f"--eval-every {eval_every} is more than the run's {last_step:,} steps: only the last model is evaluated"
