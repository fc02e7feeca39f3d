"""README and guides: their Python runs, page by page, and their links lead somewhere."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch

import flowrl

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
pages = partial(pytest.mark.parametrize, "page", ids=lambda page: page.stem)


@pages([page for page in PAGES if PYTHON.search(page.read_text())])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """As it stands, but for the numbers of steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # zuko, once imported, changes it
    for module in (flowrl, flowrl.fit):
        for fit in ("fit_density", "fit_variational"):
            monkeypatch.setattr(module, fit, partial(getattr(flowrl.fit, fit), steps=2))
    if "import zuko" in page.read_text():
        pytest.importorskip("zuko")
    code = "\n".join(PYTHON.findall(page.read_text()))
    code = re.sub(r"\.learn\([\d_]+", ".learn(102", code)  # SAC learns from step 100 on
    code = code.replace("102, reset_num_timesteps=False", "2, reset_num_timesteps=False")
    code = re.sub(r'(PPO\("\w+", "[\w-]+")', r"\1, n_steps=64", code)
    exec(compile(code, page.name, "exec"), {})


@pages(PAGES)
def test_links_lead_somewhere_and_named_files_are_there(page):
    for name in re.findall(r"`(?:python )?((?:flowrl|agents|experiments|tests|docs)/[a-z_./]+)[` ]", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
    for link in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', page.read_text()):
        path, _, heading = "".join(link).partition("#")
        if path.startswith("https:"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {path}"
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else []
        # As GitHub makes them
        anchors = [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings]
        assert not heading or heading in anchors, heading


def test_the_flows_of_the_front_page_are_there():
    rows = re.findall(r"^\| (`[\w-]+`.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} - {"flow-sac", "sac"}
    assert len(named) >= 14 and named <= set(flowrl.available_flows())


def test_the_front_page_fits_on_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
