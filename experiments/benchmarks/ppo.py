"""Mode ``ppo``: environment steps a second of PPO's whole training; a turn is one rollout and its update."""

from collections.abc import Iterator
from functools import partial

from experiments.benchmarks.commands import training_command
from experiments.benchmarks.learners import Learner, flow_learners, gaussian
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import STEPS_PER_SECOND, Case, Contender
from flowrl import DEFAULT_FLOW

ENVIRONMENTS = (1, 8)


def cases(options: Options) -> list[Case]:
    """
    All agents, and the commands that train them, on one environment and on several side by side.

    :param options: the command line
    :return: the cases
    """
    return [
        Case(
            f"PPO, {n_envs} environment{'s' if n_envs > 1 else ''}", STEPS_PER_SECOND, list(contenders(options, n_envs))
        )
        for n_envs in ENVIRONMENTS
    ]


def contenders(options: Options, n_envs: int) -> Iterator[Contender]:
    """
    Rollouts have the same number of steps however many environments there are.

    :param options: the command line
    :param n_envs: environments side by side
    :return: the contenders
    """
    n_steps, reference = max(options.amount // n_envs, 2), gaussian("PPO")
    snf = Learner("flowrl.algorithms", "SNF", "nsf")
    for learner in (reference, *flow_learners("PPO", options.flows), snf, Learner("sbx", "PPO")):
        make = partial(learner.learning, options, options.amount, n_envs, n_steps=n_steps)
        yield Contender(learner.name, make, reference.name)
    for agent, flow in (("ppo", None), ("flow-ppo", DEFAULT_FLOW)):
        name = f"run.py {agent}, {flow}" if flow else f"run.py {agent}"
        make = partial(training_command, options, agent, flow, n_envs, n_steps=n_steps)
        yield Contender(name, make, reference.name)


MODE = Mode("ppo", "Training speed of PPO, {env}", cases, amount=2048, quick_amount=64)
