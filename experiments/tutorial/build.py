"""Every picture and number of docs/tutorial.md: ``python experiments/tutorial/build.py``.

Checks single transforms, fits every flow of ``experiments/tutorial/flows.py`` (where the budgets stand) to every target
of ``experiments/tutorial/targets/``, and writes pictures to ``docs/tutorial/``, printed checks and tables into
``docs/tutorial.md``, and ``fits.csv`` (maximum likelihood) and ``energies.csv`` (reverse KL), each with its
``.json``, to ``experiments/results/``. Elsewhere, with any other option or ``--output``, the document is a copy.
"""

import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # agents/ and experiments/ are not installed

from matplotlib.figure import Figure

from experiments.reports.results import RESULTS, ResultsParser, circumstances, write_results
from experiments.tutorial import one_dimension, transforms
from experiments.tutorial.document import Document, code, table
from experiments.tutorial.fits import Fit, all_pairs, run
from experiments.tutorial.flows import FLOWS
from experiments.tutorial.targets import ENERGIES, SAMPLED, TARGETS
from flowrl.plots.densities import plot_density

DOCS = ROOT / "docs"
PROCESSES = 2  # fits at the same time, one thread each
DPI = 110


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code: 1 if a check of a transform failed
    """
    parser = ResultsParser("build.py", __doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of every fit (default: as in tutorial/flows.py)")
    parser.add_argument("--flows", nargs="+", choices=FLOWS, default=list(FLOWS), metavar="FLOW")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="fits at the same time (default: 2)")
    arguments = parser.parse_args(argv)
    docs = DOCS
    if arguments.output.resolve() != RESULTS:
        docs = arguments.output
        docs.mkdir(parents=True, exist_ok=True)
        shutil.copy(DOCS / "tutorial.md", docs)
    document, pictures = Document(docs / "tutorial.md"), docs / "tutorial"
    pictures.mkdir(exist_ok=True)

    made = circumstances()  # before the document differs from the commit
    failed = write_checks(document, pictures)
    start = time.perf_counter()
    fits = []
    pairs = all_pairs(arguments.targets, arguments.flows)
    for fit in run(pairs, arguments.seed, arguments.steps, arguments.processes):
        fits.append(fit)
        seconds = time.perf_counter() - start
        print(f"{seconds:6.0f} s", *(f"{key}={value}" for key, value in fit.row.items()), flush=True)
    write_fits(fits, document, pictures, arguments.output, made)
    for name in failed:
        print(f"error: the check of {name} failed", file=sys.stderr)
    return 1 if failed else 0


def write_checks(document: Document, pictures: Path) -> list[str]:
    """
    Pictures and printed checks of single transforms.

    :param document: has a block for each
    :param pictures: the folder
    :return: names of the transforms whose check failed
    """
    lines, passed = one_dimension.check()
    document.write("one dimension", code(lines))
    save(one_dimension.picture(), pictures / "one_dimension.png")
    failed = [] if passed else ["one dimension"]
    for name, example in transforms.TRANSFORMS.items():
        check = transforms.check(example)
        document.write(name, code(check.lines()))
        save(transforms.picture(example, name), pictures / f"{name}.png")
        failed += [] if check.passed else [name]
    save(transforms.spline_curve(), pictures / "spline_curve.png")
    document.write("order", code(transforms.order_of_the_solver()))
    return failed


def write_fits(fits: list[Fit], document: Document, pictures: Path, results: Path, made: dict[str, Any]) -> None:
    """
    Tables and the picture of fits.

    :param fits: of some flows to some targets, all pairs
    :param document: has blocks for the tables
    :param pictures: the folder
    :param results: where the rows go
    :param made: the run's circumstances
    """
    save(picture(fits), pictures / "fits.png")
    sampled = [fit for fit in fits if fit.target in SAMPLED]
    energies = [fit for fit in fits if fit.target in ENERGIES]
    if sampled:
        truth = {name: -SAMPLED[name].entropy() for name in _targets(sampled)}
        rows = [dict(target=name, flow="truth", log_likelihood=round(value, 4)) for name, value in truth.items()]
        rows += [fit.row for fit in sampled]
        keys = dict.fromkeys(key for row in rows for key in row)
        write_results(results, "fits", [{key: row.get(key) for key in keys} for row in rows], made)
        best = ["the truth", *(f"{value:.3f}" for value in truth.values()), "", ""]
        document.write("gaps", by_flow(sampled, "gap"))
        document.write("log-likelihoods", by_flow(sampled, "log_likelihood", best))
    if energies:
        write_results(results, "energies", [fit.row for fit in energies], made)
        document.write("divergences", by_flow(energies, "kl"))


def by_flow(fits: list[Fit], key: str, first: list[str] | None = None) -> str:
    """
    A table with a row for each flow and a column for each target.

    :param fits: of all pairs
    :param key: what to show of a fit
    :param first: a row before the others
    :return: Markdown
    """
    header = ["flow", *_targets(fits), "parameters", "seconds a fit"]
    rows = [first] if first else []
    for flow in dict.fromkeys(fit.flow for fit in fits):
        own = [fit.row for fit in fits if fit.flow == flow]
        seconds = statistics.mean(row["seconds"] for row in own)
        rows.append([flow, *(f"{row[key]:.3f}" for row in own), f"{own[0]['parameters']:,}", f"{seconds:.0f}"])
    return table(header, rows)


def picture(fits: list[Fit]) -> Figure:
    """
    The densities: a column for each target, the truth above the flows.

    :param fits: of all pairs
    """
    targets, flows = _targets(fits), list(dict.fromkeys(fit.flow for fit in fits))
    figure = Figure(figsize=(1.7 * len(targets) + 0.4, 1.7 * len(flows) + 2.2), layout="constrained")
    grid = figure.subplots(len(flows) + 1, len(targets), squeeze=False)
    panels = {(fit.flow, fit.target): fit.log_prob for fit in fits}
    panels |= {("truth", target): TARGETS[target].log_prob for target in targets}
    for row, flow in zip(grid, ("truth", *flows)):
        for axes, target in zip(row, targets):
            plot_density(panels[flow, target], axes, -4.0, 4.0, points=160)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(flow, fontsize=11)
    for axes, target in zip(grid[0], targets):
        axes.set_title(target, fontsize=11)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture."""
    figure.savefig(path, dpi=DPI)


def _targets(fits: list[Fit]) -> list[str]:
    return list(dict.fromkeys(fit.target for fit in fits))


if __name__ == "__main__":
    sys.exit(main())
