"""The results of a suite as one tidy table, in the columns that SimbaV2's repository publishes its results in."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments.reports.results import Row, circumstances
from experiments.reports.scores import COLUMNS
from experiments.scheduling.suite_file import Entry, Suite, command_of, name_of
from experiments.training.run_directory import RunDirectory
from experiments.training.tables import read_csv

METRICS = dict(mean_return="avg_return", sampled_mean_return="sampled_avg_return")


def tidy(suite: Suite, columns: dict[str, str] = METRICS) -> list[Row]:
    """
    All evaluations of a suite's runs, finished or not.

    :param suite: the suite
    :param columns: of an evaluation, each with the metric that it is
    :return: a row for each evaluation and metric
    """
    rows = []
    for entry in sorted(suite.entries, key=lambda entry: (entry.agent, entry.environment, entry.seed)):
        path = entry.job.run_directory()
        if path is None:
            continue
        run = RunDirectory(path)
        for evaluation in run.evaluations():
            for column, metric in columns.items():
                values = (*_columns_of(entry, run), metric, int(evaluation["step"]), evaluation[column])
                rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def seconds(suite: Suite) -> list[Row]:
    """When each evaluation was, in seconds of training; evaluations and checkpoints do not count."""
    return tidy(suite, dict(training_seconds="training_seconds"))


def made(suite: Suite) -> dict[str, Any]:
    """
    How a suite's runs were made.

    :param suite: the suite
    :return: the command of each that was evaluated or has finished, and the versions, commits, platforms and threads of
        all
    """
    commands, sessions = {}, []
    for entry in suite.entries:
        path = entry.job.run_directory()
        if path is None or (entry.job.run() is None and not RunDirectory(path).evaluations()):
            continue
        commands[name_of(entry)] = command_of(entry)
        for session in json.loads((path / "config.json").read_text())["sessions"]:
            one = {key: session.get(key) for key in ("versions", "git", "platform", "device", "threads")}
            if one not in sessions:
                sessions.append(one)
    return dict(suite=suite.name, commands=commands, circumstances=sessions)


def not_behind(suite: Suite, path: Path) -> Suite:
    """
    The part of a suite that has come as far here as in a table; another machine has trained the rest further.

    :param suite: the suite
    :param path: of the table, if there is one
    :return: a suite of those entries
    """
    there: dict[tuple[str, str, int], int] = {}
    for row in read_csv(path) if path.exists() else []:
        there[_run(row)] = max(there.get(_run(row), 0), int(row["env_step"]))
    entries = []
    for entry in suite.entries:
        directory = entry.job.run_directory()
        if directory is not None:
            run = RunDirectory(directory)
            steps = [int(evaluation["step"]) for evaluation in run.evaluations()]
            if max(steps, default=0) >= there.get(_columns_of(entry, run), 0):
                entries.append(entry)
    return Suite(suite.name, entries)


def with_what_was_there(rows: list[Row], path: Path) -> list[Row]:
    """
    Rows of runs that are here, and of the other runs in a table.

    :param rows: of the runs that are here, see :func:`not_behind`
    :param path: of the table that is there, if there is one
    :return: all rows, run by run
    """
    if not path.exists():
        return rows
    here = {_run(row) for row in rows}
    others = [dict(row) for row in read_csv(path) if _run(row) not in here]
    return sorted([*rows, *others], key=_run)  # the order within a run stays


def made_with_what_was_there(made: dict[str, Any], path: Path) -> dict[str, Any]:
    """
    How all of a table's runs were made, see :func:`with_what_was_there`.

    :param made: of the runs that are here, by :func:`made`
    :param path: of the file that says it of the table that is there, if there is one
    :return: the same of all of them, and whatever else that file says (a note)
    """
    return _merged(json.loads(path.read_text()) if path.exists() else {}, made)


def _merged(there: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    kept = [one for one in there.get("circumstances", []) if one not in made["circumstances"]]
    commands = there.get("commands", {}) | made["commands"]
    return there | made | dict(commands=commands, circumstances=[*kept, *made["circumstances"]])


def _run(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["exp_name"], row["env_name"], int(row["seed"])


def _columns_of(entry: Entry, run: RunDirectory) -> tuple[str, str, int]:
    """A run in a table's columns. Two names may be of one environment with other options."""
    environment = entry.environment if entry.environment != entry.env else run.config["environment"]["id"]
    return entry.agent, environment, entry.seed


def measured(suite: Suite, path: Path | None = None, kept: Collection[str] = ()) -> dict[str, Any]:
    """
    How what a study says of a suite's runs was made: they were trained at one time, and measured at another.

    :param suite: of the runs that were measured now
    :param path: of the file that says it of the table to which they are added
    :param kept: the names of the runs whose rows stay in that table
    :return: this process's command, versions and commit (``measured``), and what :func:`made` says of all; where rows
        stay, how those were measured (``measured_before``)
    """
    now = dict(measured=circumstances())
    if not kept or path is None:
        return now | dict(trained=made(suite))
    there = json.loads(path.read_text())
    before = [*there.get("measured_before", []), there["measured"]]
    trained = there["trained"]
    trained["commands"] = {name: command for name, command in trained["commands"].items() if name in kept}
    before = [one for i, one in enumerate(before) if one not in before[:i]]
    return there | now | dict(measured_before=before, trained=_merged(trained, made(suite)))


def speed(suite: Suite) -> dict[tuple[str, str], float]:
    """
    Steps a second of training, as far as runs have been evaluated.

    :param suite: the suite
    :return: by agent and environment; also by agent and ``""``, in all of its environments
    """
    total: dict[tuple[str, str], list[float]] = {}
    for entry in suite.entries:
        path = entry.job.run_directory()
        evaluations = RunDirectory(path).evaluations() if path else []
        if evaluations:
            last = evaluations[-1]
            for key in ((entry.agent, entry.environment), (entry.agent, "")):
                of_key = total.setdefault(key, [0.0, 0.0])
                of_key[0] += last["step"]
                of_key[1] += last["training_seconds"]
    return {key: steps / max(taken, 1e-9) for key, (steps, taken) in total.items()}
