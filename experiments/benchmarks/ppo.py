"""Mode ``ppo``: environment steps a second of PPO's whole training; a turn is one rollout and its update."""

from functools import partial

from experiments.benchmarks.learners import Learner, flow_learners, gaussian, learning
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import STEPS_PER_SECOND, Case, Contender, Work

ENVIRONMENTS = (1, 8)


def cases(options: Options) -> list[Case]:
    """
    All agents, on one environment and on several side by side.

    :param options: the command line
    :return: the cases
    """
    reference = gaussian("PPO")
    learners = [reference, *flow_learners("PPO", options.flows), Learner("sbx", "PPO")]
    return [
        Case(
            f"{options.env}, {n_envs} environment{'s' if n_envs > 1 else ''}",
            STEPS_PER_SECOND,
            [Contender(learner.name, partial(train, learner, options, n_envs), reference.name) for learner in learners],
        )
        for n_envs in ENVIRONMENTS
    ]


def train(learner: Learner, options: Options, n_envs: int) -> Work:
    """
    An agent whose rollouts have the same number of steps however many environments there are.

    :param learner: which one
    :param options: the command line
    :param n_envs: environments side by side
    :return: the work of training
    """
    model = learner.build(options, n_envs, n_steps=max(options.amount // n_envs, 2))
    return learning(model, options.amount)


MODE = Mode("ppo", "Training speed of PPO", cases, amount=2048, quick_amount=64)
