"""Learning curves of several runs, as a table and a plot: ``python experiments/compare.py RUN_DIR... --name cheetah``.

Writes to ``experiments/results/``: ``NAME.csv`` (a row per evaluation), ``NAME.json`` (commands, versions, commits) and
``NAME.png``.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

import numpy as np
from matplotlib.figure import Figure

from experiments.reports.results import RESULTS, Row, write_results
from experiments.training.errors import UsageError
from experiments.training.run_directory import RunDirectory

# Dark and distinct, also for readers who do not see red and green apart (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def collect(runs: list[RunDirectory]) -> list[Row]:
    """
    The evaluations of runs as rows of one table.

    :param runs: the runs
    :return: one row per evaluation
    """
    rows = []
    for run in runs:
        config = run.config
        evaluations = run.evaluations()
        if not evaluations:
            raise UsageError(f"{run.path} has no evaluations: train it with --eval-every greater than 0")
        for evaluation in evaluations:
            rows.append(
                dict(
                    agent=config["agent"],
                    flow=config["flow"] or "",
                    update=update_of(config),
                    env=config["environment"]["id"],
                    seed=config["seed"],
                    step=int(evaluation["step"]),
                    mean_return=round(evaluation["mean_return"], 3),
                    std_return=round(evaluation["std_return"], 3),
                    episodes=int(evaluation["episodes"]),
                    steps_per_second=round(evaluation["steps_per_second"], 2),
                )
            )
    return rows


def update_of(config: dict[str, Any]) -> str:
    """
    Which form of the algorithm made a run.

    :param config: the run's configuration
    :return: ``"SB3"`` for Stable-Baselines3's own; else the precision of flowrl's
    """
    if config.get("plain", True) or not config["flow"]:  # runs from before there was a choice are SB3's
        return "SB3"
    return config["hyperparameters"].get("precision", "float32")


def metadata(runs: list[RunDirectory]) -> list[Row]:
    """
    How each run was made.

    :param runs: the runs
    :return: configuration and circumstances of each run
    """
    keys = ("agent", "flow", "plain", "seed", "steps", "n_envs", "normalize", "hyperparameters", "sessions")
    return [dict(env=run.config["environment"]["id"], **{key: run.config.get(key) for key in keys}) for run in runs]


def plot(rows: list[Row], title: str) -> Figure:
    """
    Draw learning curves: a bold line per agent through the mean of its seeds, a thin line per seed.

    With one seed the band is the spread of that evaluation's episodes; with several, the range of the seeds.

    :param rows: what :func:`collect` gave
    :param title: the plot's title
    :return: the figure
    """
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["agent"], row["flow"], row["update"]].append(row)
    environments = {row["env"] for row in rows}
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for color, ((agent, flow, update), group) in zip(COLORS * len(groups), groups.items()):
        seeds = sorted({row["seed"] for row in group})
        curves = {seed: {row["step"]: row for row in group if row["seed"] == seed} for seed in seeds}
        # Only the steps that every seed has reached: a mean over fewer of them would jump.
        steps = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        returns = np.array([[curves[seed][step]["mean_return"] for step in steps] for seed in seeds])
        mean = returns.mean(axis=0)
        if len(seeds) == 1:
            spread = np.array([curves[seeds[0]][step]["std_return"] for step in steps])
            low, high = mean - spread, mean + spread
        else:
            low, high = returns.min(axis=0), returns.max(axis=0)
            for curve in returns:
                axes.plot(steps, curve, color=color, linewidth=0.7, alpha=0.5)
        speed = np.median([row["steps_per_second"] for row in group])
        name = f"{agent} ({flow}, update: {update})" if flow else agent
        counted = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(steps, mean, color=color, linewidth=2, label=f"{name}, {counted}, {speed:,.0f} steps/s")
    axes.set_title(title if len(environments) > 1 else next(iter(environments)))
    axes.set_xlabel("environment steps")
    axes.set_ylabel("evaluation return")
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = argparse.ArgumentParser(prog="compare.py", description="Learning curves of several runs.")
    parser.add_argument("runs", metavar="RUN_DIR", type=Path, nargs="+", help="what experiments/run.py wrote")
    parser.add_argument("--name", required=True, help="of the files to write")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where (default: experiments/results)")
    arguments = parser.parse_args(argv)
    try:
        runs = [RunDirectory.open(path) for path in arguments.runs]
        rows = collect(runs)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_results(arguments.output, arguments.name, rows, made=metadata(runs))
    path = arguments.output / arguments.name
    plot(rows, arguments.name).savefig(f"{path}.png", dpi=160)
    print(f"wrote {path}.csv, .json and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
