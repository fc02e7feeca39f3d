"""What of Stable-Baselines3's behaviour every learner has: ``make conformance``.

Runs `tests/conformance`, and once more with SB3's own policies as a control, counts what pytest says of each check, and
writes ``conformance.csv`` and ``.json`` to ``experiments/results/`` and, from these, ``docs/conformance.md``.
"""

import importlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import RESULTS, ResultsParser, Row, write_results
from experiments.scheduling.job import ROOT

TOPICS = ["saving", "prediction", "spaces", "vectorised", "callbacks", "logging", "determinism", "options"]
GAUSSIAN = "SB3's Gaussian"


def checks(processes: int, *options: str) -> Iterator[Row]:
    """
    Run the tests.

    :param processes: at once
    :param options: of pytest
    :return: each check's learner, topic and outcome, and what was refused by design
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [f"tests/conformance/test_{topic}.py" for topic in TOPICS]
        command = [sys.executable, "-m", "pytest", *files, "-q", "-n", str(processes), f"--junitxml={report}", *options]
        subprocess.run(command, cwd=ROOT, check=False)
        root = ElementTree.parse(report).getroot()
    for case in root.iter("testcase"):
        said = {one.get("name"): one.get("value") for one in case.iter("property")}
        outcome = "passed"
        for word in ("failure", "error", "skipped"):
            if case.find(word) is not None:
                outcome = "skipped" if word == "skipped" else "failed"
        if outcome == "passed" and "refused" in said:
            outcome = "refused"
        topic = case.get("classname", "").rpartition("test_")[2]
        if "learner" in said:
            yield dict(learner=said["learner"], topic=topic, outcome=outcome)


def rows_of(policy: str, found: list[Row]) -> list[Row]:
    """
    :param policy: the policy's name
    :param found: what :func:`checks` gave
    :return: of each learner and topic, how many checks had which outcome
    """
    counts = Counter((row["learner"], row["topic"], row["outcome"]) for row in found)
    learners = list(dict.fromkeys(row["learner"] for row in found))
    return [
        dict(policy=policy, learner=learner, topic=topic)
        | {outcome: counts[learner, topic, outcome] for outcome in ("passed", "refused", "skipped", "failed")}
        for learner in sorted(learners, key=order)
        for topic in TOPICS
    ]


def order(learner: str) -> int:
    """Its place in the table of learners."""
    return list(table()).index(learner)


def table() -> dict[str, Any]:
    """The tests' table of learners; the tests are not typed, and what imports them is read by mypy with them."""
    return importlib.import_module("tests.conformance.learners").LEARNERS


def page(rows: list[Row]) -> str:
    """
    ``docs/conformance.md``.

    :param rows: what :func:`rows_of` gave
    :return: Markdown
    """
    lines = [f"| learner | {' | '.join(TOPICS)} | all |", "| --- |" + " --- |" * (len(TOPICS) + 1)]
    for policy, learner in dict.fromkeys((row["policy"], row["learner"]) for row in rows):
        of = [row for row in rows if row["policy"] == policy and row["learner"] == learner]
        cells = [cell(row["passed"], row["refused"], row["failed"]) for row in of]
        whole = [sum(row[outcome] for row in of) for outcome in ("passed", "refused", "failed")]
        name = f"{learner}, {policy}" if policy == GAUSSIAN else learner
        lines.append(f"| {name} | {' | '.join(cells)} | {cell(*whole)} |")
    refusals: dict[tuple[str, str], list[str]] = {}
    for learner, entry in table().items():
        for what, refusal in entry.refuses.items():
            refusals.setdefault((what, refusal.reason), []).append(learner)
    refused = [
        f"| {what} | {'all' if len(learners) == len(table()) else ', '.join(learners)} | {reason} |"
        for (what, reason), learners in refusals.items()
    ]
    return PAGE.format(table="\n".join(lines), refusals="\n".join(refused))


def cell(passed: int, refused: int, failed: int) -> str:
    """
    :param passed: how many checks
    :param refused: by design
    :param failed: for no reason
    :return: "41", "39 + 2 refused", "40, **1 failed**"
    """
    return f"{passed}" + (f" + {refused} refused" if refused else "") + (f", **{failed} failed**" if failed else "")


PAGE = """# Conformance

Written by `make conformance` (`python experiments/studies/conformance.py`) from
[conformance.csv](../experiments/results/conformance.csv), which counts a run of `tests/conformance`.

To use a flow policy you change one string in your project. Everything else that the project does with Stable-Baselines3
should work as before. These tests check it. They are written for this library, and check what the test suites of SB3
and sb3-contrib check of an algorithm and its policy, for every algorithm in `tests/conformance/learners.py`. The last
rows of the table are the same checks of SB3's own Gaussian policies. They show that the tests ask for SB3's behaviour.

The numbers are checks that passed, plus checks of a refusal by design:

{table}

What is refused, when the model is made, with an error that says why:

| what | by | because |
| --- | --- | --- |
{refusals}

Options that an algorithm does not have (`target_kl` outside of PPO, a target network in CrossQ) are not counted.

## RL Zoo

[RL Baselines3 Zoo](https://github.com/DLR-RM/rl-baselines3-zoo) trains flow policies without changes. Install it with
`pip install -e '.[zoo]'`, name the policy in a file of hyperparameters, here `flow.yml`, and name flowrl as a package
to import:

```yaml
Pendulum-v1:
  n_timesteps: 20000
  policy: 'FlowPolicy'
  learning_rate: !!float 1e-3
  policy_kwargs: "dict(flow='nsf', net_arch=[64, 64])"
```

```bash
python -m rl_zoo3.train --algo sac --env Pendulum-v1 --gym-packages flowrl -conf flow.yml -f logs
python -m rl_zoo3.train --algo sac --env Pendulum-v1 --gym-packages flowrl -conf flow.yml -f logs \\
    -i logs/sac/Pendulum-v1_1/Pendulum-v1.zip
python -m rl_zoo3.enjoy --algo sac --env Pendulum-v1 --gym-packages flowrl -f logs --no-render
python -m rl_zoo3.train --algo sac --env Pendulum-v1 --gym-packages flowrl -conf flow.yml -f logs \\
    -optimize --n-trials 20 --sampler tpe --pruner median
```

These commands train, continue from a saved agent, play it, and search for hyperparameters.
`tests/conformance/test_zoo.py` runs them with fewer steps.

- In place of `'FlowPolicy'` the file may have a dotted path, for SAC `flowrl.policies.FlowPolicy`.
- Some of the zoo's tuned files have `use_sde: True`; remove it.
- The zoo's search replaces the `policy_kwargs` of the file by its own, so that it searches with the default flow.
- `--gym-packages flowrl` also registers flowrl's own tasks (`--env flowrl/TwoGoodActions-v0`); `--env-kwargs
  KEY:VALUE` sets their arguments.

## Versions

`make test-matrix` runs these tests, and those of policies and transforms, at the oldest supported versions of torch
(2.8), SB3 (2.9), sb3-contrib, gymnasium (1.0) and NumPy on Python 3.11, at the versions of `constraints.txt` on Python
3.12, and at the newest versions on Python 3.13. CI runs the same; on a machine that lacks one of these Pythons, its
part is skipped. All of this is on Linux; Windows and macOS are not tested.
"""


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code: 1 if a check failed
    """
    parser = ResultsParser("conformance.py", __doc__)
    parser.add_argument("--no-control", action="store_true", help="without SB3's own policies")
    arguments = parser.parse_args(argv)
    rows = rows_of("flow", list(checks(2)))
    if not arguments.no_control:
        rows += rows_of(GAUSSIAN, list(checks(2, "--gaussian")))
    write_results(arguments.output, "conformance", rows)
    if arguments.output == RESULTS:
        (ROOT / "docs" / "conformance.md").write_text(page(rows))
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
