"""Where a suite stands: a table with a row for each agent in each environment and a column for each seed."""

from rich.table import Table

from experiments.scheduling.job import FAILED, Job
from experiments.scheduling.local import Outcomes
from experiments.scheduling.suite_file import Entry, Suite
from experiments.training.run_directory import RunDirectory


def table(suite: Suite, in_hand: set[Job], outcomes: Outcomes) -> Table:
    """
    Draw it.

    :param suite: the suite
    :param in_hand: the jobs that are being trained
    :param outcomes: of those that ended
    :return: for each run its last evaluation and how far it is; what failed is red
    """
    cells = {
        (e.agent, e.environment, e.seed): _cell(e, e.job in in_hand, outcomes.get(e.job, "")) for e in suite.entries
    }
    seeds = sorted({entry.seed for entry in suite.entries})
    drawn = Table("agent", "environment", *(f"seed {seed}" for seed in seeds), title=suite.name)
    for agent, environment in dict.fromkeys((e.agent, e.environment) for e in suite.entries):
        drawn.add_row(agent, environment, *(cells.get((agent, environment, seed), "") for seed in seeds))
    return drawn


def _cell(entry: Entry, is_in_hand: bool, outcome: str) -> str:
    path = entry.job.run_directory()
    evaluations = RunDirectory(path).evaluations() if path else []
    reached = f"{evaluations[-1]['mean_return']:,.0f}" if evaluations else "-"
    if outcome == "finished" or entry.job.run() is not None:
        return f"[green]{reached}[/]"
    if outcome.startswith(FAILED):
        return f"[red]{reached} failed[/]"
    step = int(evaluations[-1]["step"]) if evaluations else entry.job.step()
    where = f"{step / entry.job.steps:.0%}" if entry.job.steps else f"{step:,}"
    return f"[yellow]{reached} ({where})[/]" if is_in_hand else f"[dim]{reached} ({where})[/]" if step else "[dim]·[/]"


def remaining_seconds(suite: Suite, speeds: dict[tuple[str, str], float]) -> tuple[float, int]:
    """
    How long what is left would take, one run after the other.

    :param suite: the suite
    :param speeds: what `experiments.scheduling.tidy.speed` gave
    :return: seconds, and how many runs they say nothing about, since no run of their agent was evaluated yet
    """
    total, unknown = 0.0, 0
    for entry in suite.entries:
        if entry.job.run() is not None:
            continue
        speed = speeds.get((entry.agent, entry.environment)) or speeds.get((entry.agent, ""))
        if speed is None or entry.job.steps is None:
            unknown += 1
            continue
        total += max(entry.job.steps - entry.job.step(), 0) / speed
    return total, unknown
