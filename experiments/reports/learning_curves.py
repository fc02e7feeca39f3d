"""From the evaluations of runs to learning curves: one curve for the seeds of one setting, a panel an environment."""

from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reports.results import Row
from experiments.training.errors import UsageError
from experiments.training.run_directory import RunDirectory

# Dark and distinct, also for readers who do not see red and green apart (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

GROUP = ("env", "agent", "flow", "update", "settings")  # the columns of a row that name its curve


def collect(runs: list[RunDirectory]) -> list[Row]:
    """
    The evaluations of runs as rows of one table.

    :param runs: the runs
    :return: one row per evaluation
    """
    rows: list[Row] = []
    seen: dict[tuple[Any, ...], RunDirectory] = {}
    for run, settings in zip(runs, differences([run.config for run in runs])):
        config, evaluations = run.config, run.evaluations()
        if not evaluations:
            raise UsageError(f"{run.path} has no evaluations: train it with --eval-every greater than 0")
        group = dict(
            env=config["environment"]["id"],
            agent=config["agent"],
            flow=config["flow"] or "",
            update=update_of(config),
            settings=settings,
            seed=config["seed"],
        )
        twin = seen.get(tuple(group.values()))
        if twin is not None and twin.path.resolve() == run.path.resolve():
            raise UsageError(f"{run.path} is named twice: leave it out once")
        if twin is not None:
            raise UsageError(f"{twin.path} and {run.path} have the same settings and the same seed: leave one out")
        seen[tuple(group.values())] = run
        for evaluation in evaluations:
            rows.append(
                group
                | dict(
                    step=int(evaluation["step"]),
                    mean_return=round(evaluation["mean_return"], 3),
                    std_return=round(evaluation["std_return"], 3),
                    episodes=int(evaluation["episodes"]),
                    steps_per_second=round(evaluation["steps_per_second"], 2),
                )
            )
    return rows


def differences(configs: list[dict[str, Any]]) -> list[str]:
    """
    What tells a run's settings from those of the other runs of its agent in its environment.

    :param configs: the runs' configurations
    :return: one text a run, ``"learning_rate=0.001, n_envs=4"``; empty where nothing differs
    """
    families = [(config["environment"]["id"], config["agent"]) for config in configs]
    settings = [settings_of(config) for config in configs]
    texts = []
    for family, own in zip(families, settings):
        relatives = [other for other, others_family in zip(settings, families) if others_family == family]
        keys = sorted(key for key in set().union(*relatives) if len({repr(other.get(key)) for other in relatives}) > 1)
        texts.append(", ".join(f"{key}={own.get(key)}" for key in keys))
    return texts


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """
    What a run's curve depends on, beside its environment, agent, flow, form of the update and seed.

    :param config: the run's configuration
    :return: the settings by name, ``policy_kwargs`` laid out
    """
    hyperparameters = dict(config["hyperparameters"])
    settings = {f"policy_kwargs.{key}": value for key, value in hyperparameters.pop("policy_kwargs", {}).items()}
    settings |= hyperparameters
    settings |= {key: config.get(key) for key in ("n_envs", "normalize", "demonstrations", "matmul_precision")}
    settings["vec_env"] = config.get("vec_env", "dummy")  # EnvPool's environments are not Gymnasium's
    settings |= {f"env.{key}": value for key, value in config["environment"].get("kwargs", {}).items()}
    settings["fine_tuned"] = config.get("source") is not None  # each seed from a run of its own
    settings.pop("policy_kwargs.flow", None)
    return settings


def update_of(config: dict[str, Any]) -> str:
    """
    Which form of the algorithm's update made a run.

    :param config: the run's configuration
    :return: ``"C"``, ``"torch"`` or ``"SB3"``; ``"flowrl"`` for runs from before there was a record
    """
    if "update" in config:
        return config["update"]
    return "SB3" if config.get("plain", True) or not config["flow"] else "flowrl"


def metadata(runs: list[RunDirectory]) -> list[Row]:
    """
    How each run was made.

    :param runs: the runs
    :return: configuration and circumstances of each run
    """
    keys = ("agent", "flow", "update", "plain", "seed", "steps", "n_envs", "normalize", "matmul_precision")
    keys += ("hyperparameters", "sessions")
    rows = []
    for config in (run.config for run in runs):
        environment = config["environment"]
        row = dict(env=environment["id"], env_kwargs=environment.get("kwargs", {}))
        rows.append(row | {key: config.get(key) for key in keys})
    return rows


def draw(rows: list[Row]) -> Figure:
    """
    Draw learning curves: a bold line a setting through the mean of its seeds, a thin line a seed.

    :param rows: what :func:`collect` gave
    :return: the figure
    """
    panels: dict[str, dict[tuple[str, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        panels[row["env"]][tuple(row[column] for column in GROUP)].append(row)
    figure = Figure(figsize=(7.5 * len(panels), 4.8), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (environment, curves) in zip(grid, panels.items()):
        for color, (group, evaluations) in zip(COLORS * len(curves), curves.items()):
            _draw_curve(axes, color, group, evaluations)
        axes.set_title(environment)
        axes.set_xlabel("environment steps")
        axes.set_ylabel("evaluation return")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.13))  # names are long
    figure.supxlabel(
        "bands: from the lowest to the highest seed; of a single seed, one standard deviation over the episodes",
        fontsize=8,
    )
    return figure


def _draw_curve(axes: Axes, color: str, group: tuple[str, ...], rows: list[Row]) -> None:
    _, agent, flow, update, settings = group
    seeds = sorted({row["seed"] for row in rows})
    curves = {seed: {row["step"]: row for row in rows if row["seed"] == seed} for seed in seeds}
    # Only the steps that every seed has reached: a mean over fewer of them would jump.
    steps = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    if not steps:
        raise UsageError(f"the seeds of {agent} were evaluated at no step in common: compare runs of one --eval-every")
    returns = np.array([[curves[seed][step]["mean_return"] for step in steps] for seed in seeds])
    mean = returns.mean(axis=0)
    if len(seeds) == 1:
        spread = np.array([curves[seeds[0]][step]["std_return"] for step in steps])
        low, high = mean - spread, mean + spread
    else:
        low, high = returns.min(axis=0), returns.max(axis=0)
        for curve in returns:
            axes.plot(steps, curve, color=color, linewidth=0.7, alpha=0.5)
    details = ", ".join(filter(None, (flow, flow and f"update: {update}", settings)))
    name = f"{agent} ({details})" if details else agent
    counted = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    # NaN where a run was resumed for its last evaluation alone
    speeds = [row["steps_per_second"] for row in rows if not np.isnan(row["steps_per_second"])]
    speed = f", {np.median(speeds):,.0f} steps/s" if speeds else ""
    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(steps, mean, color=color, linewidth=2, label=f"{name}, {counted}{speed}")
