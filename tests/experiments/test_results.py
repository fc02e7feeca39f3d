"""Published results are those of a script's defaults: those of other settings go elsewhere."""

from pathlib import Path

import pytest

from experiments.reports.results import RESULTS, ResultsParser


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
    parser = ResultsParser("why.py", "A title.\n\nMore.")
    parser.add_argument("modes", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    assert parser.parse_args(options).output == output
