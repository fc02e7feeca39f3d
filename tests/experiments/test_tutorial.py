"""`experiments/tutorial/build.py`: a whole run in miniature, its checks, and the blocks of its document."""

import csv
import json
import re

import pytest
import torch

from experiments.tutorial import build as tutorial
from experiments.tutorial import fits, flows, one_dimension, transforms
from experiments.tutorial.document import Document, table
from experiments.tutorial.targets import TARGETS
from experiments.tutorial.targets.target import midpoints
from flowrl.transforms import Affine

DOCUMENT = tutorial.DOCS / "tutorial.md"


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Documents elsewhere, and few samples; zuko switches torch's checks off when it is imported."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    for name, rows in dict(TRAINING_ROWS=512, VALIDATION_ROWS=64, HELD_OUT_ROWS=4_000).items():
        monkeypatch.setattr(fits, name, rows)
    monkeypatch.setattr(transforms, "CELLS", 400)
    monkeypatch.setattr(tutorial, "DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    return tmp_path


@pytest.mark.slow
def test_a_run_writes_every_picture_block_and_table_of_the_document(tiny):
    pytest.importorskip("zuko")
    names = ["--flows", "nsf", "zuko NSF", "--targets", "checkerboard", "U1"]
    before = DOCUMENT.read_text()
    emptied = re.sub(r"(<!-- (?!/)[^>]* -->\n).*?(<!-- /)", r"\1\2", before, flags=re.DOTALL)
    (tiny / "docs" / "tutorial.md").write_text(emptied)
    assert tutorial.main(["--output", str(tiny), *names, "--steps", "2", "--processes", "1"]) == 0

    after = (tiny / "tutorial.md").read_text()
    assert not re.search(r"<!-- (?!/)[^>]* -->\n<!-- /", after), "a block was left empty"
    for picture in re.findall(r"tutorial/\w+\.png", after):
        assert (tiny / picture).stat().st_size > 5_000, picture
    with open(tiny / "fits.csv") as file:
        rows = {(row["target"], row["flow"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3
    truth = float(rows["checkerboard", "truth"]["log_likelihood"])
    row = rows["checkerboard", "nsf"]
    assert truth == pytest.approx(-3.4657, abs=1e-4)
    assert float(row["log_likelihood"]) + float(row["gap"]) == pytest.approx(truth, abs=2e-4)
    assert f"{float(row['gap']):.3f}" in after and float(row["gap"]) > 0.1
    assert float(row["integral"]) == pytest.approx(1, abs=0.01)
    made = json.loads((tiny / "energies.json").read_text())
    assert made["versions"]["torch"] and "tutorial.py" not in made["versions"]


@pytest.mark.slow
def test_fits_come_back_from_other_processes_in_order():
    pairs = [("eight Gaussians", "realnvp"), ("U2", "triangular")]
    results = list(fits.run(pairs, seed=0, steps=2, processes=2))
    assert [(fit.target, fit.flow) for fit in results] == pairs
    assert all(fit.log_prob(torch.zeros(5, 2)).shape == (5,) for fit in results)


class WrongAffine(Affine):
    """Its log-determinant is off by a millionth."""

    def _ladj(self, x):
        return super()._ladj(x) + 1e-6


def test_a_check_sees_a_wrong_log_determinant():
    check = transforms.check(transforms.Example(lambda: WrongAffine(torch.zeros(2), torch.ones(2))))
    assert not check.passed and check.log_det_error == pytest.approx(1e-6, rel=1e-3)


def test_changes_of_variables_in_one_dimension_agree_with_those_by_hand():
    lines, passed = one_dimension.check()
    assert passed and len(lines) == 5


@pytest.mark.parametrize("name", flows.FLOWS)
def test_every_flow_of_the_gallery_starts_as_a_gaussian_of_two_features(name, tiny):
    if name.startswith("zuko"):
        pytest.importorskip("zuko")
    x, log_prob = flows.FLOWS[name].build()().rsample_and_log_prob((7,))
    assert x.shape == (7, 2) and log_prob.shape == (7,)


def test_the_density_of_a_squashed_fit_integrates_to_one_on_its_square():
    fit = fits.Fit("U1", "nsf", {}, flows.SquashedFlow(flows.FLOWS["nsf"].build()))
    x, area = midpoints(4.0, 200)
    total = area * fit.log_prob(x.float()).exp().sum()
    assert total.item() == pytest.approx(1, abs=5e-3)


def test_a_block_is_replaced_and_the_rest_kept(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n")
    Document(path).write("x", r"new \1")
    assert path.read_text() == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    with pytest.raises(ValueError, match=r"block 'z', not 0; it has \['x', 'y'\]"):
        Document(path).write("z", "")


def test_a_table_is_markdown():
    assert table(["flow", "gap"], [["nsf", "0.1"]]) == "| flow | gap |\n| --- | ---: |\n| nsf | 0.1 |"


def test_the_tables_of_the_document_are_those_of_the_results():
    """Nobody typed a number: each cell of the committed page comes from the committed table."""
    with open(tutorial.RESULTS / "fits.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["flow"] != "truth"]
    block = re.search(r"<!-- gaps -->\n(.*?)<!-- /gaps -->", DOCUMENT.read_text(), re.DOTALL)[1]
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in block.splitlines()[2:]}
    targets = [target for target in TARGETS if any(row["target"] == target for row in rows)]
    for row in rows:
        assert cells[row["flow"]][targets.index(row["target"])] == f"{float(row['gap']):.3f}"
