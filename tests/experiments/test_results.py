"""Published results are those of a script's defaults: other settings must say where theirs go."""

import pytest

from experiments.reports.results import RESULTS, results_parser
from experiments.studies import bayesian_logistic_regression, glow, imitation, vae, why
from experiments.tutorial import build


@pytest.mark.parametrize("script", [why, imitation, glow, vae, bayesian_logistic_regression, build])
@pytest.mark.parametrize("options", [["--seed", "1"], ["--steps", "5"], ["--seeds", "4"], ["--flows", "nsf"]])
def test_other_settings_do_not_overwrite_published_results(script, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(options)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "add --output DIRECTORY" in message or "unrecognized arguments" in message


def test_the_defaults_write_to_the_published_results_and_output_is_taken_as_it_is(tmp_path):
    parser = results_parser("why.py", "A title.\n\nMore.")
    parser.add_argument("--seed", type=int, default=0)
    assert parser.parse_args([]).output == RESULTS
    assert parser.parse_args(["--seed", "0"]).output == RESULTS
    assert parser.parse_args(["--seed", "1", "--output", str(tmp_path)]).output == tmp_path
