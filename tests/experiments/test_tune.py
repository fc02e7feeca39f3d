"""`tune.py`: trials are runs of `run.py`, a study is its file, and what is best trains with `--config`."""

import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

pytest.importorskip("optuna", reason="the 'suite' extra is not installed")

import optuna

from agents import AGENTS
from agents.search_spaces import SEARCH_SPACES, search_space
from experiments.run import main as run_main
from experiments.scheduling import search as searches
from experiments.training.run_directory import EVALUATION_COLUMNS
from experiments.tune import main, parse_arguments

PAUSE = 0.15  # seconds between two evaluations of a run that is none
COMMAND = "--env Pendulum --agent flow-sac --steps 300 --only learning_rate tau --runs".split()


@pytest.fixture
def fake(monkeypatch):
    """A run takes a moment and is the better the nearer its learning rate is to 1e-3; too high a tau diverges."""

    def execute(job, threads, processes):
        words = dict(word.split("=") for word in job.arguments if "=" in word)
        run = job.directory / "Pendulum-v1" / "flow-sac" / "seed0"
        (run / "checkpoints" / "step_300").mkdir(parents=True)
        (run / "config.json").write_text(json.dumps(dict(steps=300)))
        with open(run / "evaluations.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, EVALUATION_COLUMNS)
            writer.writeheader()
            for step in (100, 200, 300):
                value = -abs(float(words["learning_rate"]) - 1e-3) * 1e6 + step
                writer.writerow(dict.fromkeys(EVALUATION_COLUMNS, value) | dict(step=step))
                file.flush()
                time.sleep(PAUSE)
                if processes.stopping:
                    return "interrupted"
        return "failed: training has diverged" if float(words["tau"]) > 0.03 else "finished"

    monkeypatch.setattr(searches, "execute", execute)


@pytest.mark.parametrize(
    ("agent", "base"),
    [(name, None) for name, agent in AGENTS.items() if not agent.imitates] + [("snf", "a2c"), ("snf", "trpo")],
)
def test_every_key_of_the_search_spaces_is_one_that_run_py_takes(agent, base, tmp_path):
    """Whose first values a short run takes."""
    settings = ["--set", f"base={base}"] if base else []
    words = ["--env", "Pendulum", "--agent", agent, "--runs", str(tmp_path), *settings]
    space = searches.Search.of(parse_arguments(words)).space
    for key, values in space.items():
        value = values.low if hasattr(values, "low") else values.values[0]
        settings += ["--set", f"{key}={value}"]
    command = ["--env", "Pendulum", "--agent", agent, "--steps", "2", "--eval-every", "0", "--logdir", str(tmp_path)]
    assert run_main([*command, *settings, "--num-envs", "1"]) == 0


def test_a_study_finds_what_is_better_and_says_how_to_train_with_it(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(globals(), "PAUSE", 0.02)
    assert main([*COMMAND, str(tmp_path), "--trials", "12"]) == 0
    output = capsys.readouterr().out
    directory = tmp_path / "flow-sac-Pendulum"
    best = yaml.safe_load((directory / "best.yaml").read_text())
    assert best["env"] == "Pendulum" and best["agent"] == "flow-sac" and set(best["set"]) == {"learning_rate", "tau"}
    assert output.count("trial ") == 13 and "run.py --config" in output
    study = optuna.load_study(
        study_name=directory.name,
        storage=searches.JournalStorage(searches.JournalFileBackend(str(directory / "study.log"))),
    )
    rates = [trial.params["learning_rate"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert float(best["set"]["learning_rate"]) == pytest.approx(min(rates, key=lambda rate: abs(rate - 1e-3)), rel=1e-3)
    failed = [trial for trial in study.trials if "failed" in trial.user_attrs]
    assert all(trial.params["tau"] > 0.03 for trial in failed)
    assert (directory / "history.png").exists() and (directory / "importance.png").exists()

    assert main([*COMMAND, str(tmp_path), "--trials", "12"]) == 0
    assert capsys.readouterr().out.count("trial ") == 1, "the study has its trials"
    assert main([*COMMAND[:-2], "gamma", "--runs", str(tmp_path), "--trials", "12"]) == 2, "another space"
    assert main([*COMMAND, str(tmp_path), "--trials", "12", "--set", "gamma=0.9"]) == 2
    assert "choose another --name" in capsys.readouterr().err


def test_what_falls_behind_is_stopped(fake, tmp_path):
    space = search_space("sac", True, ["learning_rate", "tau"])
    search = searches.Search(tmp_path / "study", space, ("--env", "Pendulum"), 300, (0,), 1, True)
    study = search.study()
    for rate in (1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 3e-3):
        study.enqueue_trial({"learning_rate": rate, "tau": 0.01})
    searches.optimize(search, 6)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 5 + ["PRUNED"] and len(study.trials[5].intermediate_values) < 3


def test_what_is_stopped_is_asked_once(monkeypatch, tmp_path):
    """A second signal would end it before it has saved."""
    asked = []

    def execute(job, threads, processes):
        monkeypatch.setattr(processes, "stop", lambda: asked.append(job) or setattr(processes, "stopping", True))
        time.sleep(1)
        return "interrupted"

    monkeypatch.setattr(searches, "execute", execute)
    search = searches.Search(tmp_path / "study", {}, ("--env", "Pendulum"), 300, (0,), 1, True)
    study, processes = search.study(), searches.Processes()
    processes.stopping = True
    with pytest.raises(searches.Stopped):
        search.objective(study.ask(), processes)
    assert len(asked) == 1


def test_a_mistake_ends_the_search_counts_as_no_trial_and_may_be_corrected(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(globals(), "PAUSE", 0.01)
    command = [*COMMAND, str(tmp_path), "--name", "study", "--trials", "2", "--set", "tau=0.01"]
    with monkeypatch.context() as patch:
        patch.setattr(searches, "execute", lambda *_: "refused: error: no environment 'Pendulm'")
        assert main(["Pendulm" if word == "Pendulum" else word for word in command]) == 2
    error = capsys.readouterr().err
    assert error == "error: run.py refuses trial 0, which does not count: no environment 'Pendulm'\n"
    assert main(command) == 0
    study = optuna.load_study(
        study_name="study",
        storage=searches.JournalStorage(searches.JournalFileBackend(str(tmp_path / "study" / "study.log"))),
    )
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    with monkeypatch.context() as patch:  # a combination of values alone, since others were trained
        patch.setattr(searches, "execute", lambda *_: "refused: error: batch_size")
        assert main([*command, "--trials", "3"]) == 0
    assert "trial 3: refused: error: batch_size" in capsys.readouterr().out


def test_what_breaks_one_trial_stops_the_others(tmp_path, monkeypatch):
    def objective(self, trial, processes):
        if trial.number == 0:
            raise RuntimeError("broken")
        for _ in range(100):
            if processes.stopping:
                raise searches.Stopped
            time.sleep(0.02)
        return 0.0

    monkeypatch.setattr(searches.Search, "objective", objective)
    search = searches.Search(tmp_path / "study", {}, ("--env", "Pendulum"), 300, (0,), 1, False)
    with pytest.raises(RuntimeError, match="broken"):
        searches.run_search(search, 2, 2, None)
    assert {trial.state.name for trial in search.study().trials} == {"FAIL"}


def test_processes_share_a_study_and_the_dead_are_counted_out(fake, tmp_path):
    search = searches.Search(
        tmp_path / "study",
        search_space("sac", True, ["learning_rate", "tau"]),
        ("--env", "Pendulum"),
        300,
        (0,),
        1,
        False,
    )
    dead = search.study().ask()
    with ThreadPoolExecutor(2) as pool:
        for searching in [pool.submit(searches.run_search, search, 5, 1, None) for _ in range(2)]:
            searching.result()
    trials = search.study().trials
    assert trials[dead.number].state.name == "FAIL"
    assert sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials) == 5


def test_a_trial_that_another_process_has_just_begun_is_not_dead(fake, tmp_path):
    """Its runs' locks are not there yet, nor between two of its seeds."""
    space = search_space("sac", True, ["learning_rate", "tau"])
    search = searches.Search(tmp_path / "study", space, ("--env", "Pendulum"), 300, (0, 1), 1, False)
    study = search.study()
    study.enqueue_trial({"learning_rate": 1e-3, "tau": 0.01})  # one that does not diverge
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(searches.optimize, search, 1)
        while not study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            time.sleep(0.01)
        searches.forget_the_dead(search)
        training.result()
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


@pytest.mark.slow
def test_a_real_study(tmp_path, capsys):
    settings = (
        "--set learning_starts=50 --set batch_size=16 --set policy_kwargs.net_arch=[16] --trials 2 --jobs 2".split()
    )
    assert main([*COMMAND, str(tmp_path), *settings, "--seeds", "2"]) == 0
    assert "is the best of 2" in capsys.readouterr().out
    assert len(list((tmp_path / "flow-sac-Pendulum").glob("trial*/seed*/Pendulum-v1/flow-sac/*"))) == 4
    best = tmp_path / "flow-sac-Pendulum" / "best.yaml"
    chosen = yaml.safe_load(best.read_text())["set"]
    assert chosen["batch_size"] == "16" and chosen["policy_kwargs.flow"] == "triangular"
    assert (
        run_main(["--config", str(best), "--steps", "60", "--eval-every", "0", "--logdir", str(tmp_path / "run")]) == 0
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--agent flow-sax", "did you mean"),
        ("--agent bc", "no search space"),
        ("--only learning_rat", "it has learning_rate"),
    ],
)
def test_mistakes(tmp_path, capsys, words, message):
    assert main(["--env", "Pendulum", "--runs", str(tmp_path), *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_tables_without_a_space_are_those_that_imitate():
    assert {agent.table for agent in AGENTS.values() if not agent.imitates} <= set(SEARCH_SPACES)
