"""Mode ``act``: the latency of one action, ``model.predict`` at batch 1."""

from functools import partial

from experiments.benchmarks.learners import Learner, flow_learners, gaussian, parameters
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import MICROSECONDS, Case, Contender, Work

SETTINGS = {"SAC": dict(buffer_size=1_000), "PPO": {}}


def cases(options: Options) -> list[Case]:
    """
    SAC's agents and PPO's, sampled and deterministic actions.

    :param options: the command line
    :return: the cases
    """
    return [
        Case(
            f"{algorithm}, {'deterministic' if deterministic else 'sampled'} action",
            MICROSECONDS,
            [
                Contender(learner.name, partial(predict, learner, options, deterministic), gaussian(algorithm).name)
                for learner in (
                    gaussian(algorithm),
                    *flow_learners(algorithm, options.flows),
                    Learner("sbx", algorithm),
                )
            ],
        )
        for algorithm in ("SAC", "PPO")
        for deterministic in (False, True)
    ]


def predict(learner: Learner, options: Options, deterministic: bool) -> Work:
    """
    An untrained agent that acts.

    :param learner: which one
    :param options: the command line
    :param deterministic: whether it takes its deterministic action
    :return: the work, in predictions
    """
    model = learner.build(options, **SETTINGS[learner.algorithm])
    env = model.get_env()
    assert env is not None
    observation = env.reset()

    def turn() -> float:
        for _ in range(options.amount):
            model.predict(observation, deterministic=deterministic)  # type: ignore[arg-type]
        return options.amount

    return Work(turn, parameters(model))


MODE = Mode("act", "Latency of one action, {env}", cases, amount=300, quick_amount=2)
