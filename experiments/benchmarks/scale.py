"""Mode ``scale``: how time grows with dimension, depth and batch, and speed with the number of environments."""

from collections.abc import Callable, Sequence
from functools import partial

from experiments.benchmarks.charts import line_chart
from experiments.benchmarks.densities import flowrl_density, passes, sample_loss
from experiments.benchmarks.learners import Learner, gaussian, learning
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

    def flows(of: Callable[..., Work]) -> dict[str, Maker]:
        return {f"flowrl {recipe}": partial(of, recipe, options) for recipe in RECIPES}

    learners = (gaussian("PPO"), Learner("flowrl.algorithms", "PPO", DEFAULT_FLOW))
    agents: dict[str, Maker] = {learner.name: partial(with_environments, learner, options) for learner in learners}
    return [
        sweep(
            f"action dimensions (batch {BATCH})",
            MILLISECONDS,
            flows(with_dimensions),
            (1, 2, 4, 8, 16, 32, 64, 128),
            reference=8,
        ),
        sweep(
            f"layers ({DEEP_FEATURES} dimensions, batch {BATCH})",
            MILLISECONDS,
            flows(with_layers),
            (1, 2, 4, 8),
            reference=1,
        ),
        sweep(
            f"batch ({FEATURES} dimensions)",
            MILLISECONDS,
            flows(with_batch),
            (64, 256, 1024, 4096, 8192),
            reference=64,
        ),
        sweep(
            f"environments ({options.env}, rollouts and one update)",
            STEPS_PER_SECOND,
            agents,
            (1, 4, 16, 64),
            reference=1,
        ),
    ]


def with_dimensions(recipe: str, options: Options, dimensions: int) -> Work:
    """
    Passes of a flow over so many dimensions.

    :param recipe: the flow
    :param options: the command line
    :param dimensions: of the action
    :return: the work
    """
    build = partial(flowrl_density, recipe, dimensions)
    return passes(build, sample_loss, BATCH, dimensions, options.amount, options.device)


def with_layers(recipe: str, options: Options, layers: int) -> Work:
    """
    Passes of a flow of so many layers.

    :param recipe: the flow
    :param options: the command line
    :param layers: how many
    :return: the work
    """
    build = partial(flowrl_density, recipe, DEEP_FEATURES, layers=layers)
    return passes(build, sample_loss, BATCH, DEEP_FEATURES, options.amount, options.device)


def with_batch(recipe: str, options: Options, batch: int) -> Work:
    """
    Passes of a flow over a batch of this size.

    :param recipe: the flow
    :param options: the command line
    :param batch: contexts in a pass
    :return: the work
    """
    build = partial(flowrl_density, recipe, FEATURES)
    return passes(build, sample_loss, batch, FEATURES, options.amount, options.device)


def with_environments(learner: Learner, options: Options, n_envs: int) -> Work:
    """
    Rollouts over so many environments, each followed by one update on the whole of it.

    :param learner: which agent
    :param options: the command line
    :param n_envs: environments side by side
    :return: the work, in environment steps
    """
    rollout = QUICK_ROLLOUT if options.quick else ROLLOUT
    model = learner.build(options, n_envs, n_steps=max(rollout // n_envs, 1), n_epochs=1, batch_size=rollout)
    return learning(model, rollout)


MODE = Mode("scale", "How a pass and a rollout scale", cases, amount=20, quick_amount=1, chart=line_chart)
