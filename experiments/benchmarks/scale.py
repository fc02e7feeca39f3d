"""Mode ``scale``: how time grows with dimension, depth and batch, and speed with the number of environments."""

from collections.abc import Callable, Sequence
from functools import partial

from experiments.benchmarks.charts import line_chart
from experiments.benchmarks.densities import flowrl_density, passes, sample_loss
from experiments.benchmarks.learners import Learner, gaussian
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import MILLISECONDS, STEPS_PER_SECOND, Case, Contender, Unit, Work
from flowrl import DEFAULT_FLOW

RECIPES = ("triangular", "realnvp", "nsf")
FEATURES, DEEP_FEATURES, BATCH = 6, 8, 256  # where they are not varied
ROLLOUT, QUICK_ROLLOUT = 1024, 64  # environment steps in a turn

Maker = Callable[[int], Work]
"""From a value of the quantity that is varied to the work."""


def cases(options: Options) -> list[Case]:
    """
    One case for each quantity that is varied.

    :param options: the command line
    :return: the cases
    """

    def sweep(what: str, unit: Unit, makers: dict[str, Maker], values: Sequence[int], reference: int) -> Case:
        values = values[:2] if options.quick else values
        reference = reference if reference in values else values[0]
        return Case(
            what,
            unit,
            [
                Contender(name, partial(make, value), f"{name}, {reference}", value)
                for value in values
                for name, make in makers.items()
            ],
        )

    def flows(make: Callable[[str, int], Work]) -> dict[str, Maker]:
        return {f"flowrl {recipe}": partial(make, recipe) for recipe in RECIPES}

    def flow_passes(recipe: str, features: int = FEATURES, batch: int = BATCH, **settings: int) -> Work:
        build = partial(flowrl_density, recipe, features, **settings)
        return passes(build, sample_loss, batch, features, options.amount, options.device)

    learners = (gaussian("PPO"), Learner("flowrl.algorithms", "PPO", DEFAULT_FLOW))
    agents: dict[str, Maker] = {learner.name: partial(rollouts, learner, options) for learner in learners}
    return [
        sweep(
            f"action dimensions (batch {BATCH})",
            MILLISECONDS,
            flows(lambda recipe, features: flow_passes(recipe, features)),
            (1, 2, 4, 8, 16, 32, 64, 128),
            reference=8,
        ),
        sweep(
            f"layers ({DEEP_FEATURES} dimensions, batch {BATCH})",
            MILLISECONDS,
            flows(lambda recipe, layers: flow_passes(recipe, DEEP_FEATURES, layers=layers)),
            (1, 2, 4, 8),
            reference=1,
        ),
        sweep(
            f"batch ({FEATURES} dimensions)",
            MILLISECONDS,
            flows(lambda recipe, batch: flow_passes(recipe, batch=batch)),
            (64, 256, 1024, 4096, 8192),
            reference=64,
        ),
        sweep("environments (rollouts and one update)", STEPS_PER_SECOND, agents, (1, 4, 16, 64), reference=1),
    ]


def rollouts(learner: Learner, options: Options, n_envs: int) -> Work:
    """
    Rollouts over so many environments, each followed by one update on the whole of it.

    :param learner: which agent
    :param options: the command line
    :param n_envs: environments side by side
    :return: the work, in environment steps
    """
    rollout = QUICK_ROLLOUT if options.quick else ROLLOUT
    n_steps = max(rollout // n_envs, 1)
    return learner.learning(options, rollout, n_envs, n_steps=n_steps, n_epochs=1, batch_size=rollout)


MODE = Mode("scale", "How a pass and a rollout ({env}) scale", cases, amount=20, quick_amount=1, chart=line_chart)
