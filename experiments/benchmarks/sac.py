"""Mode ``sac``: environment steps a second of SAC's whole training, one update a step."""

from functools import partial

from experiments.benchmarks.learners import Learner, flow_learners, gaussian, learning
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import STEPS_PER_SECOND, Case, Contender, Work

WARM_UP = 300  # environment steps before the clock runs
SETTINGS = dict(learning_starts=2, buffer_size=100_000)  # update from the start; a buffer that several models can have


def cases(options: Options) -> list[Case]:
    """
    All agents on one environment.

    :param options: the command line
    :return: the case
    """
    reference = gaussian("SAC")
    learners = [
        reference,
        *flow_learners("SAC", options.flows),
        *(Learner("flowrl.algorithms", "SAC", flow, "bf16") for flow in options.flows),
        Learner("flowrl.algorithms", "SAC"),
        Learner("sbx", "SAC"),
    ]
    contenders = [Contender(learner.name, partial(train, learner, options), reference.name) for learner in learners]
    return [Case(options.env, STEPS_PER_SECOND, contenders)]


def train(learner: Learner, options: Options) -> Work:
    """
    An agent past its warm-up.

    :param learner: which one
    :param options: the command line
    :return: the work of training on
    """
    model = learner.build(options, **SETTINGS)
    if not options.quick:
        model.learn(WARM_UP)
    return learning(model, options.amount)


MODE = Mode("sac", "Training speed of SAC", cases, amount=200, quick_amount=4)
