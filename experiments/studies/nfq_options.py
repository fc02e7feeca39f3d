"""What NFQ's options are worth on HalfCheetah: ``python experiments/studies/nfq_options.py``.

In the first row all replayed actions count the same, as they did when this was measured. Each row that follows differs
from it in one option; the last is flow-sac with the same flow, normalisation, temperature and learning rate. Returns
are those of the flow's mean, of the densest action, and of samples. Writes ``nfq_options.csv`` and ``.json`` to
``experiments/results/``; the runs stay in ``runs/nfq_options/``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import ResultsParser, Row, write_results
from experiments.scheduling.job import Job
from experiments.scheduling.local import train
from experiments.scheduling.suite_file import Entry, Suite
from experiments.studies.deterministic_actions import mean_returns
from experiments.training.tables import read_csv

STEPS, EPISODES = 30_000, 5
SHARED = ["learning_starts=3000", "policy_kwargs.normalize_observations=True"]
ALIKE = ["--set", "importance_floor=1"]
VARIANTS: dict[str, list[str]] = {
    "replayed actions alike": ALIKE,
    "a Gaussian for the flow": [*ALIKE, "--flow", "gaussian"],
    "the flow as fast as the values": [*ALIKE, "--set", "flow_lr_scale=1"],
    "observations as they are": [*ALIKE, "--set", "policy_kwargs.normalize_observations=False"],
    "targets at SAC's rate": [*ALIKE, "--set", "tau=0.005"],
    "one V": [*ALIKE, "--set", "policy_kwargs.n_critics=1"],
    "returns of three steps": [*ALIKE, "--set", "n_steps=3"],
    "half the temperature": [*ALIKE, "--set", "ent_coef=0.1"],
    "a learned temperature": [*ALIKE, "--set", "ent_coef=auto_0.2"],
    "conservative": [*ALIKE, "--set", "cql_weight=0.3"],
    "flow-sac": ["--agent", "flow-sac", "--set", "ent_coef=0.2", "--set", "learning_rate=1e-3"],
}


def job_of(name: str, seed: int) -> Job:
    """
    :param name: of the variant
    :param seed: of everything
    :return: its run
    """
    words = ["--env", "HalfCheetah", "--agent", "nfq", "--flow", "nsf", "--steps", str(STEPS), "--seed", str(seed)]
    words += ["--eval-every", "10000", *(word for setting in SHARED for word in ("--set", setting))]
    return Job(Path("runs/nfq_options") / name.replace(" ", "-") / f"seed{seed}", (*words, *VARIANTS[name]))


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("nfq_options.py", __doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    arguments = parser.parse_args(argv)
    jobs = {(name, seed): job_of(name, seed) for seed in range(arguments.seeds) for name in VARIANTS}
    train(list(jobs.values()), arguments.jobs)
    rows: list[Row] = []
    for (name, seed), job in jobs.items():
        run = job.run()
        if run is None:
            continue
        values = [row["train/value"] for row in read_csv(run / "progress.csv") if row.get("train/value")]
        rows.append(
            dict(
                variant=name,
                seed=seed,
                step=STEPS,
                **mean_returns(run, ("mean", "densest", "sample"), EPISODES),
                mean_value=round(float(values[-1]), 1) if values else "",
            )
        )
        print(rows[-1], flush=True)
    from experiments.scheduling.tidy import measured  # SB3 takes seconds to import

    entries = [Entry(name, "HalfCheetah", "HalfCheetah", seed, job) for (name, seed), job in jobs.items()]
    write_results(arguments.output, "nfq_options", rows, measured(Suite("nfq_options", entries)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
