"""Which deterministic action is worth most? ``python experiments/studies/deterministic_actions.py RUN_DIR [...]``.

Returns of a run's last model whose policy acts by the noise's mean, by the average action, by the densest of 16 samples
and that mean, and by samples. Writes ``deterministic_actions.csv`` and ``.json``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

from experiments.reports.results import ResultsParser, Row, write_results

ACTIONS = ("mean", "average", "densest", "sample")


def mean_returns(run: Path, actions: Sequence[str], n_episodes: int) -> dict[str, float]:
    """
    :param run: a finished one, of a flow policy
    :param actions: some of :data:`ACTIONS`
    :param n_episodes: over how many, the same for each action
    :return: of its last model, by action
    """
    from stable_baselines3.common.evaluation import evaluate_policy  # SB3 takes seconds to import

    from experiments.evaluate import load
    from experiments.training.run_directory import RunDirectory

    model: Any
    model, env = load(RunDirectory.open(run), "last", "cpu")
    head = getattr(model.policy, "actor", model.policy).action_dist
    returns = {}
    for action in actions:
        env.seed(1)
        model.set_random_seed(1)
        deterministic = action != "sample"
        if deterministic:
            head.deterministic_action = action
        mean, _ = evaluate_policy(model, env, n_eval_episodes=n_episodes, deterministic=deterministic, warn=False)
        returns[action] = round(float(mean), 1)  # type: ignore[arg-type]
    return returns


def row_of(run: Path, n_episodes: int) -> Row:
    """
    :param run: a finished one, of a flow policy
    :param n_episodes: how many are played with each action
    :return: what was trained, and the mean return of each action
    """
    from experiments.training.run_directory import RunDirectory

    config = RunDirectory.open(run).config
    trained = dict(env=config["environment"]["name"], steps=config["steps"])
    trained |= {name: config[name] for name in ("agent", "flow", "seed")}
    row: Row = trained | mean_returns(run, ACTIONS, n_episodes)
    print(row, flush=True)
    return row


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("deterministic_actions.py", __doc__, runs="of agents with flow policies")
    parser.add_argument("--episodes", type=int, default=20, help="of each run and action (default: 20)")
    arguments = parser.parse_args(argv)
    rows = [row_of(run, arguments.episodes) for run in arguments.runs]
    write_results(arguments.output, "deterministic_actions", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
