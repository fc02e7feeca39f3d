"""Mode ``sac``: environment steps a second of SAC's whole training while it learns, one update a step."""

from functools import partial

from experiments.benchmarks.commands import training_command
from experiments.benchmarks.learners import Learner, flow_learners, gaussian
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import STEPS_PER_SECOND, Case, Contender
from flowrl import DEFAULT_FLOW

SETTINGS = dict(learning_starts=2, buffer_size=100_000)  # update from the start; a buffer that several models can have


def cases(options: Options) -> list[Case]:
    """
    All agents, and the commands that train them.

    :param options: the command line
    :return: the case
    """
    reference = gaussian("SAC")
    learners = [
        reference,
        *flow_learners("SAC", options.flows),
        Learner("flowrl.algorithms", "NFQ", "nsf"),
        *(Learner("flowrl.algorithms", "NFAC", flow) for flow in options.flows),
        Learner("flowrl.algorithms", "SAC"),
        Learner("sbx", "SAC"),
    ]
    if options.device == "cpu":
        alike = [
            ("stable_baselines3", "SAC", None),
            *(("flowrl.algorithms", name, DEFAULT_FLOW) for name in ("SAC", "NFAC")),
        ]
        learners += [Learner(*names, precision="medium") for names in alike]
    makers = {learner.name: partial(learner.learning, options, options.amount, **SETTINGS) for learner in learners}
    makers["run.py sac"] = partial(training_command, options, "sac", None, **SETTINGS)
    for flow in options.flows:
        makers[f"run.py flow-sac, {flow}"] = partial(training_command, options, "flow-sac", flow, **SETTINGS)
    return [Case("SAC", STEPS_PER_SECOND, [Contender(name, make, reference.name) for name, make in makers.items()])]


MODE = Mode("sac", "Training speed of SAC, {env}", cases, amount=200, quick_amount=4)
