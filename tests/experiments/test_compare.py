"""`experiments/compare.py`: which runs make one curve, and what is drawn and written."""

import csv
import json

import pytest

from experiments import compare
from experiments.reports.learning_curves import collect, differences, draw, update_of
from experiments.training.errors import UsageError
from experiments.training.run_directory import EVALUATION_COLUMNS, RunDirectory

HYPERPARAMETERS = dict(learning_rate=3e-4, policy_kwargs=dict(net_arch=[64], flow="nsf"))


@pytest.fixture
def write_run(tmp_path):
    """Writes what a run directory holds for a comparison."""

    def write(seed=0, env="Pendulum-v1", steps=(10, 20), agent="flow-sac", hyperparameters=HYPERPARAMETERS, **config):
        run = RunDirectory(tmp_path / f"run_{len(list(tmp_path.iterdir()))}")
        run.path.mkdir()
        flow = "nsf" if agent.startswith("flow") else None
        run.config = dict(
            environment=dict(id=env),
            agent=agent,
            flow=flow,
            seed=seed,
            update="C" if flow else "SB3",
            hyperparameters=hyperparameters,
            sessions=["a session"],
            **config,
        )
        for step in steps:
            row = dict(step=step, mean_return=seed + step, std_return=1.0, episodes=2, steps_per_second=50.0)
            run.add_evaluation(dict.fromkeys(EVALUATION_COLUMNS, 0.0) | row)
        return run

    return write


def test_comparison_writes_table_metadata_and_picture(write_run, tmp_path):
    runs = [str(write_run(agent=agent).path) for agent in ("flow-sac", "sac")]
    assert compare.main([*runs, "--name", "pendulum", "--output", str(tmp_path)]) == 0
    with open(tmp_path / "pendulum.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["agent"], row["step"]) for row in rows] == [
        *(("flow-sac", "10"), ("flow-sac", "20"), ("sac", "10"), ("sac", "20"))
    ]
    assert rows[-1]["mean_return"] == "20.0"
    metadata = json.loads((tmp_path / "pendulum.json").read_text())
    assert [(run["agent"], run["sessions"]) for run in metadata] == [(a, ["a session"]) for a in ("flow-sac", "sac")]
    assert (tmp_path / "pendulum.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_of_one_setting_are_one_curve_through_their_mean(write_run):
    runs = [write_run(seed=0, steps=(10, 20, 30), agent="sac"), write_run(seed=2, agent="sac")]
    figure = draw(collect(runs))
    (axes,) = figure.axes
    mean = axes.lines[-1]
    assert list(mean.get_xdata()) == [10, 20] and list(mean.get_ydata()) == [11, 21]
    assert mean.get_label() == "sac, 2 seeds, 50 steps/s"
    assert axes.get_xlabel() == "environment steps" and axes.get_ylabel() == "evaluation return"
    assert "bands: from the lowest to the highest seed" in figure.get_supxlabel()


def test_an_evaluation_that_was_made_up_for_has_no_speed(write_run):
    rows = collect([write_run(agent="sac", steps=(10, 20, 30))])
    rows[-1]["steps_per_second"] = float("nan")
    assert draw(rows).axes[0].lines[-1].get_label() == "sac, 1 seed, 50 steps/s"
    for row in rows:
        row["steps_per_second"] = float("nan")
    assert draw(rows).axes[0].lines[-1].get_label() == "sac, 1 seed"


def test_two_environments_are_two_panels(write_run):
    figure = draw(collect([write_run(env=env) for env in ("Pendulum-v1", "HalfCheetah-v5")]))
    assert [(axes.get_title(), len(axes.lines)) for axes in figure.axes] == [("Pendulum-v1", 1), ("HalfCheetah-v5", 1)]


def test_two_settings_are_two_curves_that_say_where_they_differ(write_run):
    runs = [write_run(), write_run(seed=1), write_run(hyperparameters=HYPERPARAMETERS | dict(learning_rate=1e-3))]
    (axes,) = draw(collect(runs)).axes
    assert [line.get_label() for line in axes.lines if not line.get_label().startswith("_")] == [
        "flow-sac (nsf, update: C, learning_rate=0.0003), 2 seeds, 50 steps/s",
        "flow-sac (nsf, update: C, learning_rate=0.001), 1 seed, 50 steps/s",
    ]
    networks = HYPERPARAMETERS | dict(policy_kwargs=dict(net_arch=[8], flow="triangular"))
    assert differences([write_run(hyperparameters=h, n_envs=2).config for h in (HYPERPARAMETERS, networks)]) == [
        "policy_kwargs.net_arch=[64]",
        "policy_kwargs.net_arch=[8]",
    ]
    tasks = [dict(id="flowrl/Corridor-v0", kwargs=dict(dimensions=d)) for d in (2, 8)]
    configs = [write_run().config | dict(environment=task, matmul_precision=None) for task in tasks]
    assert differences(configs) == ["env.dimensions=2", "env.dimensions=8"]
    assert differences([configs[0], configs[0] | dict(matmul_precision="medium")])[1] == "matmul_precision=medium"
    # Hyperparameters of different agents are different tables.
    assert differences([write_run().config, write_run(agent="ppo", hyperparameters={}).config]) == ["", ""]


def test_environments_of_another_making_are_another_setting(write_run):
    runs = [write_run(), write_run(vec_env="envpool"), write_run(seed=1, vec_env="dummy")]
    assert [row["settings"] for row in collect(runs)[::2]] == ["vec_env=dummy", "vec_env=envpool", "vec_env=dummy"]


def test_one_seed_twice_is_refused(write_run, capsys):
    runs = [write_run(), write_run()]
    assert compare.main([*(str(run.path) for run in runs), "--name", "x"]) == 2
    assert capsys.readouterr().err == (
        f"error: {runs[0].path} and {runs[1].path} have the same settings and the same seed: leave one out\n"
    )


def test_one_run_twice_is_refused(write_run, tmp_path, capsys):
    run = write_run().path
    again = run / ".." / run.name
    for other in (run, again):
        assert compare.main([str(run), str(other), "--name", "x", "--output", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err == f"error: {other} is named twice: leave it out once\n"
    same = write_run()
    with pytest.raises(UsageError, match="named twice"):
        collect([same, same])


@pytest.mark.parametrize("name", ["a/q", "a/", ""])
def test_a_name_that_is_no_files_is_refused(write_run, tmp_path, capsys, name):
    assert compare.main([str(write_run().path), "--name", name, "--output", str(tmp_path / "out")]) == 2
    assert "--output says in which directory" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_seeds_without_a_step_in_common_and_runs_without_evaluations_are_refused(write_run, tmp_path, capsys):
    with pytest.raises(UsageError, match="no step in common"):
        draw(collect([write_run(seed=0, steps=(10,)), write_run(seed=1, steps=(15,))]))
    with pytest.raises(UsageError, match="no evaluations"):
        collect([write_run(steps=())])
    (tmp_path / "empty").mkdir()
    assert compare.main([str(tmp_path / "empty"), "--name", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_form_of_the_update_is_read_or_what_old_runs_say_of_it():
    configs = [
        dict(flow="nsf", update="torch"),
        dict(flow="nsf", hyperparameters={}),  # from before there was a choice
        dict(flow="nsf", hyperparameters={}, plain=True),
        dict(flow="nsf", hyperparameters={}, plain=False),
        dict(flow=None, hyperparameters={}, plain=False),  # the Gaussian agents are SB3's in any case
    ]
    assert [update_of(config) for config in configs] == ["torch", "SB3", "SB3", "flowrl", "SB3"]
