"""Mode ``scale``: how the time of a pass grows with the number of action dimensions."""

from functools import partial

from experiments.benchmarks.charts import line_chart
from experiments.benchmarks.densities import flowrl_density, passes, sample_loss
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.turns import MILLISECONDS, Case, Contender, Work

RECIPES = ("triangular", "realnvp", "nsf")
DIMENSIONS, QUICK_DIMENSIONS, REFERENCE = (1, 2, 4, 8, 16, 32, 64, 128), (8, 64), 8
BATCH = 256


def cases(options: Options) -> list[Case]:
    """
    Flows over dimensions, each compared with itself.

    :param options: the command line
    :return: the case
    """

    def work(recipe: str, features: int) -> Work:
        build = partial(flowrl_density, recipe, features)
        return passes(build, sample_loss, BATCH, features, options.amount, options.device)

    contenders = [
        Contender(f"flowrl {recipe}", partial(work, recipe, features), f"flowrl {recipe}, {REFERENCE}", features)
        for features in (QUICK_DIMENSIONS if options.quick else DIMENSIONS)
        for recipe in RECIPES
    ]
    return [Case("action dimensions", MILLISECONDS, contenders)]


TITLE = f"A sample, its log-prob and their gradients (batch {BATCH})"
MODE = Mode("scale", TITLE, cases, amount=20, quick_amount=1, chart=line_chart)
