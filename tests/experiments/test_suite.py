"""Suites: every run is trained once, goes on from its last checkpoint, and ends in one table."""

import csv
import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from experiments.scheduling import ray_cluster, tidy
from experiments.scheduling.job import ROOT, Job, Processes, execute
from experiments.scheduling.locks import is_locked, locked
from experiments.scheduling.progress import table
from experiments.scheduling.suite_file import command_of, read_suite
from experiments.suite import main
from experiments.training.errors import Resumable, TrainingError, UsageError
from experiments.training.run_directory import EVALUATION_COLUMNS, RunDirectory
from tests.experiments.stand_ins import in_this_process, with_stand_ins

SMALL = """
steps: 60
seeds: 1
environments: [Pendulum]
checkpoint_every: 20
run: {eval_every: 30, eval_episodes: 1}
agents:
  flow-sac: &small
    env_set: {max_episode_steps: 20}
    set: {learning_starts: 40, batch_size: 16, policy_kwargs.net_arch: [16]}
  a gaussian:
    <<: *small
    agent: flow-sac
    flow: gaussian
"""
WORDS = (
    "--env Pendulum --agent flow-sac --set learning_starts=50 --set batch_size=16 --set policy_kwargs.net_arch=[16] "
    "--eval-every 0"
).split()


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def wait_for(condition, seconds=120):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.02)


@pytest.fixture(params=["stand-in", pytest.param("run.py", marks=pytest.mark.slow)])
def trainer(request, monkeypatch):
    """What the processes of jobs run; its value: the imports of another process whose jobs are to run the same."""
    imports = "import sys; from pathlib import Path; from experiments import suite; from experiments.suite import Job"
    if request.param == "run.py":
        return imports
    monkeypatch.setattr(Job, "command", with_stand_ins(Job.command))
    imports += "; from tests.experiments.stand_ins import with_stand_ins; Job.command = with_stand_ins(Job.command)"
    return imports + "; suite.write = lambda *_, **__: None"  # which imports torch


def suite_in_a_process(trainer, *words):
    command = [sys.executable, "-c", f"{trainer}; sys.exit(suite.main())", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_suite_is_agents_times_environments_times_seeds(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(
        "steps: 1_000\nseeds: 2\nenvironments: [HalfCheetah, Hopper]\nrun: {eval_every: 500}\nagents:\n  flow-sac:\n"
        "  nsf 2: {agent: flow-sac, flow: nsf, set: {gamma: 0.9}, environments: [Hopper], seeds: [3], steps: 2000}\n"
    )
    suite = read_suite(path, tmp_path)
    names = [(entry.agent, entry.environment, entry.seed) for entry in suite.entries]
    assert names == [
        ("flow-sac", "HalfCheetah", 0), ("flow-sac", "Hopper", 0), ("flow-sac", "HalfCheetah", 1),
        ("flow-sac", "Hopper", 1), ("nsf 2", "Hopper", 3),
    ]  # fmt: skip
    job = suite.entries[-1].job
    assert job.directory == tmp_path / "suite" / "nsf-2" / "Hopper" / "seed3" and job.steps == 2000
    command = " ".join(job.command())
    for words in ("--agent flow-sac", "--flow nsf", "--set gamma=0.9", "--eval-every 500", "--steps 2000", "--seed 3"):
        assert words in command
    chosen = read_suite(path, tmp_path, dict(environments=["HalfCheetah"], seeds="1..2", steps=10)).entries
    assert [(e.agent, e.seed, e.job.steps) for e in chosen] == [("flow-sac", 1, 10), ("flow-sac", 2, 10)]


def test_an_environment_may_have_options_and_a_name(tmp_path):
    path = tmp_path / "named.yaml"
    path.write_text(
        "seeds: 1\nrun: {eval_every: 500, eval_episodes: 2}\nenvironments:\n  Hopper:\n"
        "  narrow: {env: flowrl/Corridor, env_set: {dimensions: 8, reward: 2}, eval-every: 0}\n"
        "agents:\n  flow-sac: {env_set: {reward: 3}, run: {eval_episodes: 4}}\n"
    )
    hopper, narrow = read_suite(path, tmp_path).entries
    assert (hopper.environment, hopper.env, narrow.environment, narrow.env) == (
        *("Hopper", "Hopper"),
        *("narrow", "flowrl/Corridor"),
    )
    words = " ".join(narrow.job.command())
    assert "--env flowrl/Corridor" in words and "--env-set dimensions=8 --env-set reward=3" in words
    assert "--eval-every 0 --eval-episodes 4" in words and "--steps" not in words
    assert "--eval-every 500" in " ".join(hopper.job.command()) and narrow.job.directory.parent.name == "narrow"
    assert [entry.environment for entry in read_suite(path, tmp_path, dict(environments=["narrow"])).entries] == [
        "narrow"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must be a mapping"),
        ("a: [\n", "not valid YAML"),
        ("stepz: 3\nagents: {}\n", "did you mean steps"),
        ("agents: {flow-sac: {floww: nsf}}\n", "did you mean flow"),
        ("agents: {flow-sac: }\n", "flow-sac has no seeds"),
        ("agents: {flow-sac: }\nseeds: 0\nenvironments: [Hopper]\n", "seeds must be a whole number"),
        ("agents: {flow-sac: }\nseeds: 3..1\nenvironments: [Hopper]\n", "there are no seeds 3..1"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: Hopper\n", "environments must be a list"),
        ("agents: {flow-sac: }\nseeds: .inf\nenvironments: [Hopper]\n", "seeds must be a whole number"),
        ("agents: {flow-sac: }\nseeds: [0, 0]\nenvironments: [Hopper]\n", "stands twice"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: [Hopper]\nrun: {seed: 7}\n", "run may not say 'seed'"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: [Hopper]\nrun: [a]\n", "run must be a mapping"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: [Hopper]\ncheckpoint_every: 5k\n", "checkpoint_every must be"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: {c: {env: Hopper, seed: 7}}\n", "may not say 'seed'"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: {c: 7}\n", "environments: c must be a mapping"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: {c: {env: }}\n", "an env"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: {1: , '1': }\n", "a name of its own"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: {}\n", "at least one"),
        ("agents: {flow-sac: }\nseeds: []\nenvironments: [Hopper]\n", "seeds must be"),
        ("agents: {flow-sac: {env_set: [a]}}\nseeds: 1\nenvironments: {c: }\n", "env_set must be a mapping"),
        ("agents: {flow-sac: {environments: [d]}}\nseeds: 1\nenvironments: {c: }\n", "no environment 'd'"),
        ("agents: {a b: , a+b: }\nseeds: 1\nenvironments: [Hopper]\n", "punctuation"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: [Hopper]\nrun: {eval_evry: 20}\n", "did you mean eval_every"),
        ("agents: {flow-sac: {run: {list: true}}}\nseeds: 1\nenvironments: [Hopper]\n", "has no option 'list'"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: {c: {evall-every: 7}}\n", "c: run.py has no option"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: [Hopper]\ncheckpoint_every: -1\n", "number of at least 0"),
        ("agents: {flow-sac: }\nseeds: 1\nenvironments: [Hopper]\nsteps: 1.5e0\n", "number of at least 1"),
    ],
)
def test_what_a_suite_file_may_not_say(tmp_path, text, message):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_suite(path, tmp_path)


def test_numbers_are_written_as_run_py_takes_them(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text("steps: 1e3\nseeds: 1\ncheckpoint_every: 0\nenvironments: [Hopper]\nagents: {flow-sac: }\n")
    (entry,) = read_suite(path, tmp_path).entries
    assert (entry.job.steps, entry.job.checkpoint_every) == (1_000, 0)


def test_commands_can_be_pasted(tmp_path):
    path = tmp_path / "suite.yaml"
    settings = "{policy_kwargs.flow_kwargs: {context_gain: 1.0}, learning_rate: 0.001}"
    path.write_text(f"steps: 10\nseeds: 1\nenvironments: [Hopper]\nagents: {{flow-sac: {{set: {settings}}}}}\n")
    (entry,) = read_suite(path, tmp_path).entries
    words = shlex.split(command_of(entry))
    assert words == ["python", "experiments/run.py", *entry.job.arguments, "--steps", "10"]
    assert "policy_kwargs.flow_kwargs={'context_gain': 1.0}" in words


def test_what_the_command_line_chooses_must_be_there(tmp_path, suite_file):
    with pytest.raises(UsageError, match="did you mean Pendulum"):
        read_suite(suite_file, tmp_path, dict(environments=["Pendulm"]))
    with pytest.raises(UsageError, match="did you mean flow-sac"):
        read_suite(suite_file, tmp_path, dict(agents=["flow-sax"]))


def test_runs_are_trained_once_and_end_in_one_table(tmp_path, suite_file, capfd, monkeypatch):
    in_this_process(monkeypatch)
    command = [str(suite_file), "--runs", str(tmp_path), "--jobs", "2"]
    assert main([*command, "--dry-run"]) == 0
    assert "2 of 2 runs to train" in capfd.readouterr().out
    assert main(command) == 0
    rows = rows_of(tmp_path / "small" / "small.csv")
    assert list(rows[0]) == ["exp_name", "env_name", "seed", "metric", "env_step", "value"]
    assert {(row["exp_name"], row["env_step"], row["metric"]) for row in rows} == {
        (agent, step, metric)
        for agent in ("flow-sac", "a gaussian")
        for step in ("30", "60")
        for metric in ("avg_return", "sampled_avg_return")
    }
    assert {row["metric"] for row in rows_of(tmp_path / "small" / "small_seconds.csv")} == {"training_seconds"}
    made = json.loads((tmp_path / "small" / "small.json").read_text())
    assert len(made["commands"]) == 2 and made["circumstances"][0]["threads"] == 1

    there = tmp_path / "results" / "small.csv"
    there.parent.mkdir()
    there.write_text("exp_name,env_name,seed,metric,env_step,value\nflow-sac,Pendulum-v1,1,avg_return,60,-7.5\n")
    there.with_suffix(".json").write_text('{"note": "by hand"}')
    assert main([*command, "--collect", "--output", str(there.parent)]) == 0
    assert json.loads(there.with_suffix(".json").read_text())["note"] == "by hand"
    assert len(rows_of(there)) == len(rows) + 1, "another machine's run stays in the table"
    assert [row["value"] for row in rows_of(there) if row["seed"] == "1"] == ["-7.5"]
    part = tmp_path / "part"
    assert main([*command, "--agents", "a gaussian", "--collect", "--output", str(part)]) == 0
    assert {row["exp_name"] for row in rows_of(part / "small.csv")} == {"a gaussian"}, "those that were asked for"

    further, how = tmp_path / "further" / "small.csv", dict(commands={"flow-sac, Pendulum, seed 0": "--steps 900"})
    further.parent.mkdir()
    further.write_text("exp_name,env_name,seed,metric,env_step,value\nflow-sac,Pendulum-v1,0,avg_return,900,-7.5\n")
    further.with_suffix(".json").write_text(json.dumps(how))
    assert main([*command, "--collect", "--output", str(further.parent)]) == 0
    assert {row["env_step"] for row in rows_of(further) if row["exp_name"] == "flow-sac"} == {"900"}
    commands = json.loads(further.with_suffix(".json").read_text())["commands"]
    assert len(commands) == 2 and commands["flow-sac, Pendulum, seed 0"] == "--steps 900"

    capfd.readouterr()
    assert main(command) == 0 and "0 of 2 runs to train" in capfd.readouterr().out
    assert main([*command, "--agents", "flow-sac", "--steps", "80"]) == 0, "a finished run grows"
    assert "1 of 1 runs to train" in capfd.readouterr().out
    assert {row["exp_name"] for row in rows_of(tmp_path / "small" / "small.csv")} == {"flow-sac", "a gaussian"}
    suite = read_suite(suite_file, tmp_path, dict(steps=80))
    assert [entry.job.step() for entry in suite.entries] == [80, 60]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(suite, set(), {}))
    assert "75%" in console.export_text()
    suite_file.write_text(SMALL.replace("batch_size: 16", "batch_size: 32"))
    assert main(command) == 2, "what is there was trained with other settings"
    assert "give what you changed another name" in capfd.readouterr().err


def test_how_runs_without_evaluations_were_made_is_kept(tmp_path, monkeypatch):
    in_this_process(monkeypatch)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("eval_every: 30", "eval_every: 0"))
    assert main([str(path), "--runs", str(tmp_path), "--agents", "flow-sac"]) == 0
    made = tidy.made(read_suite(path, tmp_path))
    assert list(made["commands"]) == ["flow-sac, Pendulum, seed 0"] and len(made["circumstances"]) == 1


def finish(job):
    """Write what a finished run with one evaluation leaves."""
    run = RunDirectory(job.directory / "Pendulum-v1" / "flow-sac" / "run")
    (run.path / "checkpoints" / f"step_{job.steps}").mkdir(parents=True)
    run.config = dict(environment=dict(id="Pendulum-v1"), steps=job.steps, sessions=[])
    run.add_evaluation(dict.fromkeys(EVALUATION_COLUMNS, 0.0) | dict(step=job.steps))
    job.claim()


def test_finished_seeds_that_an_earlier_command_line_chose_stay_in_the_table(tmp_path, suite_file):
    command = [str(suite_file), "--runs", str(tmp_path), "--agents", "flow-sac", "--seeds"]
    for entry in read_suite(suite_file, tmp_path, dict(agents=["flow-sac"], seeds=4)).entries:
        finish(entry.job)
    table = tmp_path / "small" / "small.csv"
    for seeds in ("4", "2", "3..3"):  # of which the file has one
        assert main([*command, seeds]) == 0
        assert {row["seed"] for row in rows_of(table)} == {"0", "1", "2", "3"}
    suite_file.write_text(SMALL.replace("batch_size: 16", "batch_size: 32"))
    assert main([*command, "1", "--collect"]) == 0
    assert {row["seed"] for row in rows_of(table)} == {"0"}, "the others are of other settings"


def test_as_many_runs_go_side_by_side_as_this_process_has_processors(tmp_path, suite_file, capsys, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3, 5}, raising=False)
    assert main([str(suite_file), "--runs", str(tmp_path), "--dry-run"]) == 0
    assert "3 side by side" in capsys.readouterr().out
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert main([str(suite_file), "--runs", str(tmp_path), "--dry-run"]) == 0
    assert "7 side by side" in capsys.readouterr().out


def test_to_write_and_to_write_nothing_is_refused(suite_file, capsys):
    assert main([str(suite_file), "--collect", "--dry-run"]) == 2
    assert "drop one of them" in capsys.readouterr().err


def test_a_cluster_has_its_own_number_of_jobs(suite_file, capsys):
    assert main([str(suite_file), "--ray", "local", "--jobs", "1"]) == 2
    assert "drop --ray" in capsys.readouterr().err


class Ending(Processes):
    """Each process comes 100 steps further, and ends with a code."""

    def __init__(self, code):
        super().__init__()
        self.code, self.calls = code, 0

    def call(self, command, output, environment, lock):
        self.calls += 1
        run = Path(output.name).parent / "Pendulum-v1" / "flow-sac" / "run"
        (run / "checkpoints" / f"step_{100 * self.calls}").mkdir(parents=True)
        (run / "config.json").write_text('{"steps": 500}')
        return self.code


def test_a_mistake_is_said_and_not_tried_again_and_may_be_corrected(tmp_path, monkeypatch):
    wrong = Job(tmp_path / "a", ("--env", "Pendulum", "--agent", "flow-sax"), 100)
    with monkeypatch.context() as patch:
        in_this_process(patch)
        outcome = execute(wrong)
    assert outcome.startswith("refused: ") and "did you mean flow-sac" in outcome
    assert (tmp_path / "a" / "output.txt").read_text().count("flow-sax") == 1
    assert execute(replace(wrong, arguments=tuple(WORDS)), 1, Ending(0)) == "finished"
    with pytest.raises(UsageError, match="another name"):
        execute(wrong)
    assert json.loads((tmp_path / "a" / "arguments.json").read_text()) == WORDS


def test_a_run_whose_last_evaluation_failed_is_not_finished(tmp_path):
    job = Job(tmp_path / "a", tuple(WORDS), 60)
    finish(job)
    assert job.run() is not None
    run = RunDirectory(job.run())
    run.config = dict(run.config) | dict(eval_every=30)
    assert job.run() is not None
    (run.path / "evaluations.csv").unlink()
    assert job.run() is None
    run.add_evaluation(dict.fromkeys(EVALUATION_COLUMNS, 0.0) | dict(step=60))
    assert job.run() is not None


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks there")
def test_a_file_system_without_locks_has_none(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    assert execute(Job(tmp_path / "a", tuple(WORDS), 500), 1, Ending(0)) == "finished"
    with locked(tmp_path / "lock"):
        assert not is_locked(tmp_path / "lock")


def test_a_run_that_loses_processes_goes_on_as_long_as_it_comes_further(tmp_path):
    lost, broken = Ending(Resumable.exit_code), Ending(TrainingError.exit_code)
    assert execute(Job(tmp_path / "a", tuple(WORDS), 500), 1, lost) == "finished" and lost.calls == 5
    assert execute(Job(tmp_path / "b", tuple(WORDS), 500), 1, broken).startswith("failed") and broken.calls == 3


def test_a_worker_that_is_killed_loses_what_came_after_its_last_checkpoint(tmp_path, trainer):
    job = Job(tmp_path / "a", tuple(WORDS), 1_500, checkpoint_every=250)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(execute(job)))
    thread.start()
    wait_for(lambda: job.step() >= 250)
    process = json.loads((job.run_directory() / "config.json").read_text())["sessions"][-1]["process"]
    os.kill(process, signal.SIGKILL)
    thread.join(120)
    assert outcome == ["finished"] and job.step() == 1_500
    (run,) = (tmp_path / "a").glob("*/*/*")
    sessions = json.loads((run / "config.json").read_text())["sessions"]
    assert len(sessions) == 2 and 250 <= sessions[1]["from_step"] < 1_500


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")
def test_a_suite_that_is_killed_goes_on_with_the_runs_that_outlived_it(tmp_path, suite_file, trainer):
    command = [str(suite_file), "--runs", str(tmp_path), "--steps", "1500", "--agents", "flow-sac"]
    suite = suite_in_a_process(trainer, *command)
    (entry,) = read_suite(suite_file, tmp_path, dict(agents=["flow-sac"], steps=1_500)).entries
    wait_for(lambda: entry.job.step() >= 100)
    suite.kill()
    suite.communicate()
    assert main([*command, "--jobs", "1"]) == 0
    (run,) = entry.job.directory.glob("*/*/*")
    sessions = json.loads((run / "config.json").read_text())["sessions"]
    assert entry.job.run() == run and len(sessions) == 1, "no second process trained what the first one was training"


def test_ctrl_c_lets_every_run_save(tmp_path, suite_file, trainer):
    command = [str(suite_file), "--runs", str(tmp_path), "--steps", "100000", "--jobs", "1"]
    suite = suite_in_a_process(trainer, *command)
    entry = read_suite(suite_file, tmp_path, dict(steps=100_000)).entries[0]
    wait_for(lambda: entry.job.step() >= 100)
    suite.send_signal(signal.SIGINT)
    output, _ = suite.communicate(timeout=120)
    assert suite.returncode == 130 and "flow-sac, Pendulum, seed 0: interrupted" in output
    assert "interrupted and saved" in (entry.job.directory / "output.txt").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")
def test_ctrl_c_ends_a_wait_for_another_suite(tmp_path):
    job, processes = Job(tmp_path / "a", tuple(WORDS), 100), Processes()
    outcome = []
    with job.locked(Processes()):
        thread = threading.Thread(target=lambda: outcome.append(execute(job, 1, processes)))
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        processes.stop()
        thread.join(10)
    assert outcome == ["interrupted"] and job.run_directory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="processes outlive those that started them")
def test_a_run_ends_with_its_ray_worker(tmp_path, trainer):
    code = (
        f"{trainer}; from experiments.scheduling.job import Processes, execute; "
        f"execute(Job(Path({str(tmp_path / 'a')!r}), {tuple(WORDS)!r}, 100_000, 100), 1, Processes(outlive_us=False))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    job = Job(tmp_path / "a", tuple(WORDS), 100_000, 100)
    wait_for(lambda: job.step() >= 100)
    worker.kill()
    worker.wait()
    wait_for(lambda: "interrupted and saved" in (tmp_path / "a" / "output.txt").read_text(), 30)


class StandInForRay(ModuleType):
    """Its tasks run where they are waited for; of the second one the worker is lost."""

    def __init__(self):
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RuntimeError)
        self.addresses, self.tasks = [], []

    def init(self, address, **options):
        self.addresses.append(address)

    def shutdown(self):
        self.addresses.append("left")

    def remote(self, num_cpus, max_retries):
        return lambda function: SimpleNamespace(remote=partial(self.begin, function, num_cpus))

    def begin(self, function, num_cpus, *arguments):
        self.tasks.append((num_cpus, partial(function, *arguments)))
        return len(self.tasks) - 1

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        if reference == 1:
            raise RuntimeError("the worker died\nwhile it trained")
        return self.tasks[reference][1]()


def test_on_a_cluster_what_is_left_is_trained_and_what_is_lost_is_said(tmp_path, monkeypatch):
    ray = StandInForRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(Job, "command", with_stand_ins(Job.command))
    jobs, shown = [Job(tmp_path / name, tuple(WORDS), 100, 50) for name in "abc"], []
    assert execute(jobs[0]) == "finished"
    outcomes = ray_cluster.train(jobs, "10.0.0.1:6379", 2, lambda *what: shown.append(what))
    assert outcomes == {jobs[0]: "finished", jobs[1]: "finished", jobs[2]: "failed: the worker died"}
    assert jobs[1].run() is not None and jobs[2].run_directory() is None
    assert [num_cpus for num_cpus, _ in ray.tasks] == [2, 2] and ray.addresses == ["10.0.0.1:6379", "left"]
    assert [len(done) for _, done in shown] == [2, 3] and shown[-1] == (set(), outcomes)


@pytest.mark.slow
def test_ray_gives_the_same_numbers(tmp_path, suite_file):
    pytest.importorskip("ray")
    assert main([str(suite_file), "--runs", str(tmp_path / "local"), "--jobs", "2"]) == 0
    assert main([str(suite_file), "--runs", str(tmp_path / "ray"), "--ray", "local"]) == 0
    results = [(tmp_path / where / "small" / "small.csv").read_text() for where in ("local", "ray")]
    assert results[0] == results[1]
