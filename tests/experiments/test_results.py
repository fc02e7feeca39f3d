"""Published results are those of a script's defaults: those of other settings go elsewhere."""

import json
import shlex
from pathlib import Path

import pytest

from experiments.reports.results import RESULTS, ResultsParser


def parser():
    parser = ResultsParser("why.py", "A title.\n\nMore.")
    parser.add_argument("modes", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ([], RESULTS),
        (["--seed", "0", "sac"], RESULTS),
        (["--seed", "1"], Path("runs/why")),
        (["--quick"], Path("runs/why")),
        (["--seed", "1", "--output", "elsewhere"], Path("elsewhere")),
    ],
)
def test_only_the_defaults_of_a_script_write_published_results(options, output):
    assert parser().parse_args(options).output == output


def test_results_of_runs_that_are_named_are_published_on_demand():
    parser = ResultsParser("calibration.py", "A title.", runs="of nfac")
    assert parser.parse_args(["run"]).output == Path("runs/calibration")
    arguments = parser.parse_args(["run", "other", "--output", str(RESULTS)])
    assert arguments.output == RESULTS and arguments.runs == [Path("run"), Path("other")]


def test_committed_commands_can_be_pasted():
    for path in RESULTS.glob("*.json"):
        content = json.loads(path.read_text())
        made = content if isinstance(content, dict) else {}
        for name, command in (made | made.get("trained", {})).get("commands", {}).items():
            assert shlex.join(shlex.split(command)) == command, f"{path.name}: {name}"


def test_options_that_select_rows_are_no_other_settings(capsys):
    parser = ResultsParser("known.py", "A title.", selecting=("seeds",))
    parser.add_argument("--seeds", type=int, default=5)
    assert parser.parse_args(["--seeds", "1"]).output == RESULTS
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "--seeds are no such settings" in " ".join(capsys.readouterr().out.split())


def test_other_settings_are_refused_over_published_results(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--seed", "1", "--quick", "--output", str(RESULTS)])
    assert "drop --seed and --quick, or write to --output runs/why" in capsys.readouterr().err
