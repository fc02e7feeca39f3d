"""Published results are those of a script's defaults: those of other settings go elsewhere."""

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


def test_other_settings_are_refused_over_published_results(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--seed", "1", "--quick", "--output", str(RESULTS)])
    assert "drop --seed and --quick, or write to --output runs/why" in capsys.readouterr().err
