"""A report's tables, in Markdown: what each agent reached in each environment, and whether it beats the baseline."""

from experiments.reports.scores import Curves, agents_of, common_step, environments_of, with_common_steps
from experiments.reports.statistics import (
    ENOUGH_SEEDS,
    Estimate,
    interquartile_mean,
    probability_of_improvement,
    returns_by_environment,
)


def final_table(curves: Curves) -> str:
    """
    The interquartile mean of each agent in each environment at the last step that all of them have reached.

    :param curves: of all agents
    :return: a Markdown table; in brackets the 95 % interval and the number of seeds
    """
    curves = with_common_steps(curves)
    environments = environments_of(curves)
    steps = {environment: common_step(curves, environment) for environment in environments}
    forms = {environment: _form(curves, environment, steps[environment]) for environment in environments}
    lines = [
        "| interquartile mean of returns | "
        + " | ".join(f"{env}, {steps[env]:,} steps" for env in environments)
        + " |",
        "| --- |" + " --- |" * len(environments),
    ]
    for agent in agents_of(curves):
        cells = []
        for environment in environments:
            curve = curves.get((agent, environment))
            if curve is None:
                cells.append("")
                continue
            estimate = interquartile_mean(curve.at(steps[environment])[:, None, None])
            seeds = f"{len(curve.seeds)} seed{'s' if len(curve.seeds) > 1 else ''}"
            cells.append(f"{show(estimate, len(curve.seeds), forms[environment])}, {seeds}")
        lines.append(f"| {agent} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def improvement_table(curves: Curves, agents: dict[str, list[str]]) -> str:
    """
    How likely agents are better than a baseline.

    :param curves: of all agents
    :param agents: of each baseline, those that are compared with it, at the last step that all of these have reached;
        none: all agents
    :return: a Markdown table, for each agent over the environments that it shares with the baseline, which are named,
        with the seeds in each. Where both have three seeds or more in some of them, only these count.
    """
    lines = ["| | better than | with probability | in | seeds |", "| --- | --- | --- | --- | --- |"]
    for baseline, chosen in agents.items():
        together = with_common_steps(
            {key: curve for key, curve in curves.items() if not chosen or key[0] in (baseline, *chosen)}
        )
        for agent in chosen or agents_of(curves):
            returns, shared = returns_by_environment(together, [agent, baseline])
            if agent == baseline or not shared:
                continue
            pairs = list(zip(shared, returns[agent], returns[baseline]))
            well_known = [(name, x, y) for name, x, y in pairs if min(len(x), len(y)) >= ENOUGH_SEEDS]
            environments, ours, theirs = zip(*(well_known or pairs))
            seeds = [(len(x), len(y)) for x, y in zip(ours, theirs)]
            likely = show(probability_of_improvement(ours, theirs), min(map(min, seeds)), ".2f")
            against = [f"{x} against {y}" for x, y in (seeds if len(set(seeds)) > 1 else seeds[:1])]
            lines.append(f"| {agent} | {baseline} | {likely} | {', '.join(environments)} | {', '.join(against)} |")
    return "\n".join(lines) + "\n"


def _form(curves: Curves, environment: str, step: int) -> str:
    """How returns in an environment are written: the smaller the largest of them, the more decimals."""
    there = [curve.at(step) for (_, env), curve in curves.items() if env == environment]
    largest = max(abs(returns).max() for returns in there)
    return ",.0f" if largest >= 100 else ",.1f" if largest >= 10 else ",.3f"


def show(estimate: Estimate, seeds: int, form: str) -> str:
    """A number and its interval, which one seed does not have."""
    value = f"{estimate.value[0]:{form}}"
    return value if seeds == 1 else f"{value} ({estimate.low[0]:{form}} to {estimate.high[0]:{form}})"
