"""`make reliability`: a fault comes when it says, what is lost is counted, and the page is that of the results."""

import csv
import random
import signal

import pytest

from experiments.reports.results import RESULTS
from experiments.scheduling.job import execute
from experiments.studies import faults, reliability, reliability_page


@pytest.fixture
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(reliability, "RUNS", tmp_path)
    monkeypatch.setattr(reliability, "STEPS", 400)
    monkeypatch.setattr(reliability, "CHECKPOINT_EVERY", 100)


def test_a_killed_run_is_the_same_and_another_seed_is_not(short):
    job, reference = reliability.job_of("flow-sac", "killed"), reliability.job_of("flow-sac", "whole")
    step, checkpoint = faults.signalled(signal.SIGKILL)(job, random.Random(0))
    assert 0 <= step - checkpoint <= 400 and job.run() is None
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
