"""Search for an agent's hyperparameters: ``python experiments/tune.py --env HalfCheetah --agent flow-sac --trials 50``.

Each trial is a run of ``run.py``; what falls behind the median of the others at an evaluation is stopped (Optuna). The
study is a file: processes that are given the same ``--name`` share it, and one that was stopped goes on. The best
hyperparameters end in ``runs/tune/NAME/best.yaml``, for ``run.py --config``.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

from experiments.run import natural, positive
from experiments.training.errors import UsageError, one_line_errors

RUNS = Path("runs/tune")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: the arguments; those of the process by default
    :return: the arguments
    """
    parser = argparse.ArgumentParser(prog="tune.py", description="Search for an agent's hyperparameters.")
    parser.add_argument("--env", required=True, help="as run.py's")
    parser.add_argument("--agent", default="flow-sac", help="as run.py's (default: flow-sac)")
    parser.add_argument("--name", help="of the study (default: AGENT-ENV)")
    parser.add_argument("--trials", type=positive, default=30, help="of the study in all (default: 30)")
    parser.add_argument("--steps", type=positive, default=50_000, help="of each run (default: 50000)")
    parser.add_argument("--eval-every", type=positive, help="steps between evaluations (default: a tenth of --steps)")
    parser.add_argument("--seeds", type=positive, default=1, help="runs of each trial, whose mean counts (default: 1)")
    parser.add_argument("--first-seed", type=natural, default=0, help="of these (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="of the search space (agents/search_spaces.py)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="for all trials, as run.py's")
    parser.add_argument("--jobs", type=positive, default=1, help="trials side by side (default: 1)")
    parser.add_argument("--threads", type=positive, default=1, help="of each (default: 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="trials on a Ray cluster; local: on Ray in this process")
    parser.add_argument("--no-pruning", action="store_true", help="train every trial to its end")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"where studies go (default: {RUNS})")
    return parser.parse_args(argv)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    arguments = parse_arguments(argv)
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UsageError("tune.py needs the 'suite' extra: pip install -e '.[suite]'") from None
    from experiments.scheduling.search import Search, run_search

    search = Search.of(arguments)
    run_search(search, arguments.trials, arguments.jobs, arguments.ray)
    search.write_best()
    return 0


if __name__ == "__main__":
    sys.exit(main())
