"""The rows of supported versions: the same in the workflow, and the oldest is what pyproject.toml says."""

import yaml

from tests.matrix import ROOT, ROWS, lower_bounds


def test_the_workflow_runs_the_rows_of_the_matrix():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    rows = workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]
    assert {row["row"]: row["python"] for row in rows} == {name: python for name, (python, _) in ROWS.items()}


def test_the_oldest_row_is_exact():
    pins = lower_bounds()
    assert {"torch==2.8", "stable-baselines3==2.9", "sb3-contrib==2.9", "gymnasium==1.0"} <= set(pins)
    assert all(pin.count("==") == 1 and "," not in pin for pin in pins)
