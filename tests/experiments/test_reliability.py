"""`make reliability`: a fault comes when it says, what is lost is counted, and the page is that of the results."""

import csv
import random
import signal

import pytest

from experiments.reports.results import RESULTS
from experiments.scheduling.job import execute
from experiments.studies import faults, reliability, reliability_page
from tests.experiments.stand_ins import in_this_process


@pytest.fixture
def short(monkeypatch, tmp_path):
    words = "--set policy_kwargs.net_arch=[16] --set learning_starts=50 --eval-every 50 --eval-episodes 1".split()
    monkeypatch.setattr(reliability, "AGENTS", {"flow-sac": [*words, "--env-set", "max_episode_steps=23"]})
    monkeypatch.setattr(reliability, "RUNS", tmp_path)
    monkeypatch.setattr(reliability, "STEPS", 200)
    monkeypatch.setattr(reliability, "CHECKPOINT_EVERY", 40)


def test_a_killed_run_is_the_same_and_another_seed_is_not(short, monkeypatch):
    """The one that is killed is a process of its own, and the one that goes on is another."""
    job, reference = reliability.job_of("flow-sac", "killed"), reliability.job_of("flow-sac", "whole")
    step, checkpoint = faults.signalled(signal.SIGKILL)(job, random.Random(9))  # 44 % of the way
    assert 0 <= step - checkpoint <= 200 and 0 < job.step() and job.run() is None
    in_this_process(monkeypatch)
    assert execute(job) == execute(reference) == "finished"
    assert reliability.same(reference, job)
    (job.run() / "evaluations.csv").write_text((job.run() / "evaluations.csv").read_text().replace("-1", "-2"))
    assert not reliability.same(reference, job)


def test_the_committed_page_is_that_of_the_committed_results():
    assert reliability_page.DOCUMENT.read_text() == reliability_page.page()
    rows = committed("reliability")
    assert all(row["finished"] == row["runs"] for row in rows)
    assert all(row["bit_equal"] == row["runs"] for row in rows if reliability.FAULTS[row["fault"]].is_exact)
    assert all(row["not_finite"] == "0" for row in committed("hostile"))


def committed(name):
    with open(RESULTS / f"{name}.csv") as file:
        return list(csv.DictReader(file))
