"""Studies of many runs: what is finished stays finished, and what is measured is what is meant."""

import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from experiments.reports.results import write_results
from experiments.run import main
from experiments.scheduling.job import Job
from experiments.scheduling.local import train
from experiments.scheduling.suite_file import Entry, command_of
from experiments.studies import calibration, deterministic_actions, known_optimum, measures, nfq_options, pictures
from experiments.studies.divergence import PARTS, divergences
from experiments.studies.known_optimum import MEASURES, entries_of
from experiments.studies.transfer import first_step
from experiments.training.run_directory import RunDirectory
from experiments.training.tables import read_csv
from tests.experiments.stand_ins import in_this_process
from tests.models import build, perturb


def test_an_interrupted_run_is_not_taken_for_a_finished_one(tmp_path):
    job, run = Job(tmp_path, ()), tmp_path / "HiddenGoal" / "nfq" / "seed0"
    assert job.run() is None and job.step() == 0
    (run / "checkpoints" / "step_100").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(dict(steps=200)))
    assert job.run() is None and job.step() == 100
    (run / "checkpoints" / "step_200").mkdir()
    assert job.run() == run
    assert Job(tmp_path, (), steps=300).run() is None, "it may grow"


def test_jobs_are_trained_once(tmp_path, capfd, monkeypatch):
    in_this_process(monkeypatch)
    words = "--env flowrl/HiddenGoal --agent nfq --flow gaussian --steps 40 --eval-every 0 --seed 1".split()
    job = Job(tmp_path, tuple(words))
    train([job], 2)
    assert "1 of 1 runs to train" in capfd.readouterr().out
    train([job], 2)
    assert "0 of 1 runs to train" in capfd.readouterr().out
    run = job.run()
    assert RunDirectory.open(run).config["seed"] == 1


def test_a_runs_command_says_everything():
    (flow,) = entries_of(["energy-bandit-40"], ["nfq nsf, four layers"], [3])
    command = " ".join(flow.job.command())
    for words in ("--env-set n_modes=40", "policy_kwargs.flow_kwargs={'layers': 4}", "--seed 3", "--agent nfq"):
        assert words in command
    (gaussian,) = entries_of(["energy-bandit-40"], ["flow-sac gaussian"], [3])
    assert "layers" not in " ".join(gaussian.job.command())


def test_every_task_has_its_measure():
    entries = entries_of()
    assert {entry.env for entry in entries} == set(MEASURES)
    assert all(callable(getattr(measures, measure)) for measure in MEASURES.values())
    assert len({entry.job.directory for entry in entries}) == len(entries)


def test_the_command_refuses_unknown_tasks_and_agents(capsys):
    assert known_optimum.main(["energy-bandit-5"]) == 2 == known_optimum.main(["multi-goal", "--agents", "nfc nsf"])
    errors = capsys.readouterr().err
    assert "energy-bandit-4" in errors and "nfq nsf" in errors


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Measures `nfq nsf` in corridor-2 as ``success``, trains and draws nothing, and reads what is written."""
    monkeypatch.setattr(known_optimum, "draw", lambda *_: None)

    def measure(success, seeds):
        def rows_of(entries):
            return [dict(agent=entry.agent, seed=entry.seed, success=success) for entry in entries]

        monkeypatch.setattr(known_optimum, "rows_of", rows_of)
        words = ["corridor-2", "--agents", "nfq nsf", "--seeds", seeds, "--collect", "--output", str(tmp_path)]
        assert known_optimum.main(words) == 0
        table = read_csv(tmp_path / "known_optimum_corridor_2.csv")
        how = json.loads((tmp_path / "known_optimum_corridor_2.json").read_text())
        return [(row["agent"], row["seed"], row["success"]) for row in table], how

    return measure


def written(tmp_path, rows, **commands):
    how = dict(measured=dict(command="first"), trained=dict(commands=commands, circumstances=["one"], note="kept"))
    write_results(tmp_path, "known_optimum_corridor_2", rows, how)


def test_measured_runs_are_added_to_the_table_that_is_there(tmp_path, measure, capsys):
    """Other seeds and agents stay; what is measured again is replaced, and what would be trained otherwise goes."""
    old = [("nfq nsf", 0), ("an old name", 0), ("flow-ppo nsf", 1), ("flow-ppo nsf", 2)]
    (entry,) = entries_of(["corridor-2"], ["flow-ppo nsf"], [1])
    commands = {"flow-ppo nsf, corridor-2, seed 1": command_of(entry), "flow-ppo nsf, corridor-2, seed 2": "another"}
    written(tmp_path, [dict(agent=agent, seed=seed, success=0.1) for agent, seed in old], **commands)
    measure(0.2, "0..0")
    said = capsys.readouterr().out
    assert "left out an old name, seed 0" in said and "left out flow-ppo nsf, seed 2" in said
    rows, how = measure(0.3, "0..0")
    assert rows == [("nfq nsf", "0", "0.3"), ("flow-ppo nsf", "1", "0.1")]
    assert how["measured_before"][0] == dict(command="first") and how["trained"]["note"] == "kept"
    assert list(how["trained"]["commands"]) == ["flow-ppo nsf, corridor-2, seed 1"], "none was trained here"


def test_a_table_of_which_nothing_stays_says_nothing_of_before(tmp_path, measure):
    (entry,) = entries_of(["corridor-2"], ["flow-ppo nsf"], [1])
    rows = [dict(agent="flow-ppo nsf", seed=1, other_column=0.1)]
    written(tmp_path, rows, **{"flow-ppo nsf, corridor-2, seed 1": command_of(entry)})
    rows, how = measure(0.2, "0..1")
    assert rows == [("nfq nsf", "0", "0.2"), ("nfq nsf", "1", "0.2")]
    assert "measured_before" not in how and how["trained"]["circumstances"] == []


def test_a_picture_of_runs_that_are_not_all_here_stays(tmp_path, capsys):
    entries = [entry for entry in entries_of(["hidden-goal"]) if entry.seed == 0]
    there, gone = (Entry(e.agent, e.environment, e.env, 0, Finished(here)) for e, here in zip(entries, (True, False)))
    picture = tmp_path / "picture.png"
    picture.write_text("as it is")
    known_optimum.draw([there, gone], picture)
    assert picture.read_text() == "as it is" and gone.agent in capsys.readouterr().out


class Finished:
    """Stands in for a job."""

    def __init__(self, here):
        self.run = lambda: "somewhere" if here else None


def test_entropies_of_histograms():
    assert measures.entropy_of(np.array([25, 25, 25, 25])) == pytest.approx(math.log(4))
    assert measures.entropy_of(np.array([0, 7, 0, 0])) == 0 == measures.entropy_of(np.zeros(4))


def test_a_goal_counts_as_reached_when_it_stays_so():
    rows = [dict(step=500 * i, entropy=e, goal_1=50, goal_2=45) for i, e in enumerate([0.0, 1.3, 1.0, 1.25, 1.3])]
    assert first_step(rows) == 1500 and first_step(rows[:3]) is None
    assert first_step([row | dict(goal_1=30) for row in rows]) is None, "few episodes reach a goal"


def test_each_deterministic_action_has_its_return(tmp_path):
    words = "--env Pendulum --agent flow-ppo --flow triangular --steps 64 --eval-every 0 --no-progress --set n_steps=16"
    assert main([*words.split(), "--logdir", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/*/*")
    row = deterministic_actions.row_of(path, 2)
    assert (row["env"], row["agent"], row["flow"], row["seed"]) == ("Pendulum", "flow-ppo", "triangular", 0)
    returns = [row[action] for action in deterministic_actions.ACTIONS]
    assert len(set(returns)) > 2 and all(-2_000 < value < 0 for value in returns)
    assert returns[0] == deterministic_actions.mean_returns(path, ["mean"], 2)["mean"], "as ever"


def test_options_differ_one_at_a_time():
    assert nfq_options.job_of("one V", 0).arguments[-2:] == ("--set", "policy_kwargs.n_critics=1")


@pytest.mark.parametrize(
    ("env", "measure", "agent"),
    [
        ("EnergyBandit", "energy_bandit", "nfq"),
        ("MultiGoal", "multi_goal", "flow-sac"),
        ("NoisyLQR", "noisy_lqr", "nfq"),
        ("ReturnChain", "return_chain", "nfac"),
    ],
)
def test_untrained_models_are_measured_and_drawn(env, measure, agent, tmp_path, monkeypatch):
    words = f"--env {env} --agent {agent} --flow gaussian --steps 20 --eval-every 0 --no-progress".split()
    assert main([*words, "--logdir", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("*/*/*")
    row = getattr(measures, measure)(run)
    if measure == "energy_bandit":
        assert row["mass"] == pytest.approx(1, abs=0.01) and row["kl"] > row["kl_of_best_gaussian"] > 0.5
    if measure == "noisy_lqr":
        assert row["value_error"] > 0.3 and row["covariance_error"] > 1
    if measure == "return_chain":  # uniform on the interval
        assert min(row["distance_safe"], row["distance_risky"]) > 0.05
        covered = calibration.row_of(run, 3)
        assert covered["states"] == 3 and 0 <= covered["covered_90"] <= 1
        model, env = measures.open_model(run)
        states, actions, _ = calibration.play(model, env, 0)
        atoms, weights = model.returns(states, actions)
        values = calibration.values_of(model, states, actions)
        np.testing.assert_allclose(values.mean(0), (atoms * weights).sum(1), atol=1e-5)
    monkeypatch.setattr(pictures, "TRAJECTORIES", 5)
    draw = getattr(pictures, measure, None)
    if draw:
        draw({"agent": run}).savefig(tmp_path / "picture.png", dpi=40)


def test_sacs_values_are_compared_with_returns(tmp_path):
    words = "--env NoisyLQR --agent flow-sac --flow gaussian --steps 20 --eval-every 0 --no-progress".split()
    assert main([*words, "--logdir", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("*/*/*")
    row = calibration.row_of(run, 3)
    assert row["covered_50"] is row["covered_90"] is None and row["smaller_error"] <= row["mean_error"]
    model, env = measures.open_model(run)
    states, actions, _ = calibration.play(model, env, 0)
    scaled = torch.as_tensor(model.policy.scale_action(actions))
    q = torch.cat(model.critic(torch.as_tensor(states), scaled), 1)
    np.testing.assert_array_equal(calibration.values_of(model, states, actions), q.detach().T)


@torch.no_grad()
@pytest.mark.parametrize("moved", PARTS)
def test_an_updates_divergence_is_that_of_the_part_that_moved(moved):
    old = build("PPO", policy_kwargs=dict(flow="nsf")).policy
    perturb(old, 0.1)
    new = deepcopy(old)
    observations = torch.randn(64, *old.observation_space.shape)
    actions = old.get_distribution(observations).sample()
    assert set(divergences(old, new, observations, actions).values()) == {0.0}
    d, bias = old.action_net.features, new.action_net.context_map.bias
    {"mean": bias[:d], "scale": bias[d : 2 * d], "layers": new.action_net.conditioners[0].linears[-1].bias}[moved].add_(
        0.1
    )
    found = divergences(old, new, observations, actions)
    assert found[moved] == pytest.approx(found["all"]) and found["all"] > 1e-5
    assert all(found[part] == 0.0 for part in PARTS if part != moved)
