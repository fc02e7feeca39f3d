"""`experiments/benchmark.py`: the order of turns, the numbers of the tables, what is missing, and what is published."""

import csv
import json
import os
import sys
from unittest import mock

import pytest
import torch

from experiments.benchmark import MODES, main, parse_arguments
from experiments.benchmarks import commands, table, targets, transforms
from experiments.benchmarks.charts import bar_chart, line_chart
from experiments.benchmarks.densities import CONTEXT
from experiments.benchmarks.learners import Learner
from experiments.benchmarks.mode import Options
from experiments.benchmarks.peers import NotAvailable
from experiments.benchmarks.turns import MILLISECONDS, STEPS_PER_SECOND, Case, Contender, Work, take_turns
from experiments.reports.results import RESULTS
from experiments.training.run_directory import RunDirectory
from flowrl import DEFAULT_FLOW

BUILDERS = {
    "zuko-nsf": transforms.zuko_nsf,
    "zuko-coupling": transforms.zuko_coupling,
    "zuko-inverted": lambda: transforms.zuko_coupling(inverted=True),
    "normflows": transforms.normflows_coupling,
    "nflows": transforms.nflows_coupling,
}


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was(monkeypatch):
    """A benchmark sets the threads and what JAX reads, and zuko switches torch's checks off where it is imported."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)


class Machine:
    """Contenders that only note their turns, and a clock that reads the seconds they were given."""

    def __init__(self):
        self.turns, self.closed, self.seconds = [], [], 0.0

    def contender(self, name, *seconds, reference="A", done=10.0, value=None):
        waiting = iter((0.0, *seconds))  # the first turn warms up

        def turn():
            self.turns.append(name)
            self.seconds = next(waiting)
            return done

        return Contender(name, lambda: Work(turn, 7, lambda: self.closed.append(name)), reference, value)

    def clock(self, turn):
        done = turn()
        return done, self.seconds


def broken(error, after=None):
    """A contender that fails: as it is built, or in the turn after so many."""
    turns = []

    def turn():
        turns.append(None)
        if len(turns) > after:
            raise error
        return 1.0

    def make():
        if after is None:
            raise error
        return Work(turn)

    return Contender("broken", make, "A")


def test_contenders_take_turns():
    machine = Machine()
    case = Case("nothing", MILLISECONDS, [machine.contender(name, 1, 1, 1) for name in "ABC"])
    results = take_turns(case, 3, machine.clock)
    assert "".join(machine.turns) == "ABC" * 4  # once to warm up, which is not measured
    assert [len(result.values) for result in results] == [3, 3, 3]
    assert sorted(machine.closed) == ["A", "B", "C"]


def test_ratios_are_taken_round_by_round():
    machine = Machine()
    case = Case(
        "nothing", STEPS_PER_SECOND, [machine.contender("A", 1.0, 2.0, 8.0), machine.contender("B", 2.0, 1.0, 4.0)]
    )
    ours, theirs = table.rows(case, take_turns(case, 3, machine.clock))
    assert (ours["median"], ours["lowest"], ours["highest"]) == (5.0, 1.25, 10.0)
    assert (theirs["median"], theirs["lowest"], theirs["highest"]) == (5.0, 2.5, 10.0)
    assert (ours["ratio"], ours["ratio_lowest"], ours["ratio_highest"]) == (1.0, 1.0, 1.0)
    assert (theirs["ratio"], theirs["ratio_lowest"], theirs["ratio_highest"]) == (2.0, 0.5, 2.0)  # medians say 1
    assert theirs["parameters"] == 7 and theirs["rounds"] == 3 and theirs["values"] == "5 10 2.5"


def test_a_varied_quantity_is_compared_with_one_of_its_values():
    machine = Machine()
    contenders = [machine.contender("A", value, value=value, reference="A, 8") for value in (4, 8, 16)]
    case = Case("nothing", MILLISECONDS, contenders)
    rows = table.rows(case, take_turns(case, 1, machine.clock))
    assert [(row["value"], row["ratio"]) for row in rows] == [(4, 0.5), (8, 1.0), (16, 2.0)]
    assert rows[0]["median"] == 400.0  # of a turn of 10 passes in 4 seconds
    assert line_chart("title", rows).axes[0].get_xlabel() == "nothing"


@pytest.mark.parametrize(
    ("error", "after", "reason"),
    [
        (NotAvailable("peer is not installed: pip install peer"), None, "peer is not installed: pip install peer"),
        (RuntimeError("no\nmore"), None, "RuntimeError: no"),
        (ValueError("NaN"), 2, "ValueError: NaN"),  # fails in its second measured turn
    ],
    ids=["not-installed", "not-built", "later"],
)
def test_who_fails_is_skipped_with_the_reason(capsys, error, after, reason):
    machine = Machine()
    case = Case("nothing", MILLISECONDS, [machine.contender("A", 1, 1, 1), broken(error, after)])
    rows = table.rows(case, take_turns(case, 3, machine.clock))
    assert f"skipped broken: {reason}\n" in capsys.readouterr().out
    assert rows[1]["skipped"] == reason and rows[0]["skipped"] == ""
    assert rows[0]["rounds"] == 3 and rows[1]["rounds"] == 0
    assert {rows[1][column] for column in ("median", "lowest", "highest", "ratio")} == {None}
    assert f"skipped: {reason}" in table.show(rows)
    assert len(bar_chart("title", rows).axes[0].patches) == 1


def test_without_the_reference_there_is_no_ratio():
    machine = Machine()
    case = Case("nothing", MILLISECONDS, [machine.contender("B", 1)])
    (row,) = rows = table.rows(case, take_turns(case, 1, machine.clock))
    assert row["median"] == 100.0 and row["ratio"] is None
    assert "100" in table.show(rows)
    bar_chart("title", rows)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_peers_sample_and_score_the_same_density(build):
    torch.manual_seed(0)
    try:
        density = build()
    except NotAvailable as missing:
        pytest.skip(str(missing))
    with torch.no_grad():
        for parameter in density.module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        context = torch.randn(32, CONTEXT)
        x, log_prob = density.sample(context)
        assert x.shape == (32, transforms.FEATURES) and log_prob.shape == (32,)
        torch.testing.assert_close(density.log_prob(x, context), log_prob, atol=1e-3, rtol=1e-3)


def test_quick_transforms_writes_table_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "zuko", None)  # as if it were not installed
    assert main(["transforms", "--quick", "--threads", "1", "--flows", "nsf", "--output", str(tmp_path)]) == 0
    with open(tmp_path / "speed_transforms.csv", newline="") as file:
        rows = {(row["what"], row["contender"]): row for row in csv.DictReader(file)}
    nsf = rows["log-prob of given points", "flowrl nsf"]
    assert float(nsf["median"]) > 0 and float(nsf["ratio"]) == 1.0 and int(nsf["parameters"]) > 0
    zuko = rows["log-prob of given points", "zuko spline coupling"]
    assert zuko["median"] == "" and zuko["skipped"] == "zuko is not installed: pip install zuko"
    printed = capsys.readouterr().out
    assert "skipped zuko spline coupling" in printed
    assert "log-prob of given points: zuko spline coupling / flowrl nsf" in printed and "not measured" in printed
    made = json.loads((tmp_path / "speed_transforms.json").read_text())
    assert made["machine"]["cpu"] and "torch" in made["versions"] and "sbx-rl" in made["peers"]
    assert made["options"]["rounds"] == 1 and made["options"]["threads"] == 1
    assert (tmp_path / "speed_transforms.png").stat().st_size > 10_000


def test_targets_are_compared_with_the_turns_of_two_contenders(tmp_path):
    def measured(mode, instructions, *entries):
        with open(tmp_path / f"speed_{mode}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("what", "value", "contender", "unit", "values"), *entries])
        made = dict(machine=dict(instructions=instructions))
        (tmp_path / f"speed_{mode}.json").write_text(json.dumps(made))

    flow = f"run.py flow-sac, {DEFAULT_FLOW}"
    measured(
        "sac",
        "AVX2",
        ("SAC", "", "run.py sac", "steps/s", "10 20 10"),
        ("SAC", "", flow, "steps/s", "30 50 20"),
        ("SAC", "", "SBX SAC, Gaussian", "steps/s", ""),
    )
    dimensions = "action dimensions"
    measured("scale", "AVX512", *((dimensions, d, "flowrl nsf", "ms", str(t)) for d, t in ((8, 1.0), (64, 2.5))))
    rows, made = targets.rows(tmp_path)
    by_case = {row.pop("case"): row for row in rows}
    assert set(made) == {"sac", "scale"} and len(rows) == sum(target.mode in made for target in targets.TARGETS)
    of_commands = dict(unit="steps/s", target="at least 2.5", ratio=2.5, lowest=2.0, highest=3.0, met="yes")
    assert by_case[f"SAC: {flow} / run.py sac"] == of_commands  # 3.5 with AVX-512
    missing = by_case[f"SAC: flowrl SAC, {DEFAULT_FLOW} / SBX SAC, Gaussian"]
    assert missing["ratio"] is None and missing["met"] is None and missing["target"] == "at least 1.4"
    too_slow = by_case[f"{dimensions}: flowrl nsf, 64 / flowrl nsf, 8"]
    assert (too_slow["target"], too_slow["ratio"], too_slow["met"]) == ("at most 2", 2.5, "no")
    assert "missed" in targets.show([row | dict(case=case) for case, row in by_case.items()])


def test_a_quick_look_does_not_write_to_the_published_results():
    assert parse_arguments(["sac"]).output == RESULTS
    assert parse_arguments(["sac", "--quick"]).output.resolve() != RESULTS


RUN = """
import os, sys, time

path = os.path.join(sys.argv[-1], sys.argv[1])
os.makedirs(path)
assert sys.stdout.isatty()
with open(os.path.join(path, "progress.csv"), "w") as logs:
    for line in ("time/fps,time/total_timesteps", *(f"1,{10 * row}" for row in range(1, 1000))):
        print(line, file=logs, flush=True)
        time.sleep(0.05)
"""


def test_a_training_command_runs_only_in_its_turns(tmp_path, monkeypatch):
    path = RunDirectory.create(tmp_path, "Pendulum-v1", "sac", seed=0).path.relative_to(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "run.py").write_text(RUN)  # the real one would import torch for seconds
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    command = commands.TrainingCommand([str(path)])
    try:
        assert command.turn() == 10 and command.turn() == 10
        _, status = os.waitpid(command.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
    finally:
        command.close()
    assert command.process.returncode is not None and not os.path.exists(command.logdir.name)


def test_a_training_command_that_ends_early_says_why():
    command = commands.TrainingCommand(["--env", "Pendulum", "--steps", "none"])
    try:
        with pytest.raises(RuntimeError, match="ended early: run.py: error: argument --steps: 'none' is not"):
            command.turn()
    finally:
        command.close()


def test_cuda_is_refused_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["transforms", "--device", "cuda"]) == 2
    assert "--device cuda: torch finds no CUDA device here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transform"], "did you mean transforms?"),
        (["sac", "--flows", "nfs"], "unknown flow 'nfs': did you mean"),
        (["sac", "--env", "HalfCheeta-v5"], "did you mean HalfCheetah-v5"),
    ],
)
def test_what_is_unknown_is_refused(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_learner_is_built_with_the_agents_hyperparameters():
    options = Options("Pendulum-v1", ["nsf"], rounds=1, amount=4, threads=1, device="cpu")
    learner = Learner("stable_baselines3", "SAC", "nsf")
    model = learner.build(options, buffer_size=100)
    assert learner.name == "SB3 SAC, nsf"
    assert model.learning_rate == 1e-3 and model.buffer_size == 100
    assert model.policy_kwargs["flow"] == "nsf" and model.policy_kwargs["net_arch"] == [256, 256]


def test_every_reference_takes_part_and_so_do_the_contenders_that_targets_are_of():
    default, found = parse_arguments([]), set()
    for mode in MODES.values():
        for case in mode.cases(Options(default.env, default.flows, rounds=1, amount=4, threads=1, device="cpu")):
            labels = [contender.label for contender in case.contenders]
            assert len(set(labels)) == len(labels)
            assert {contender.reference for contender in case.contenders} <= set(labels)
            found |= {(mode.name, case.what, label) for label in labels}
    for target in targets.TARGETS:
        mode = target.mode.removesuffix("_cuda")  # of the same contenders
        assert {(mode, target.what, label) for label in (target.contender, target.reference)} <= found
