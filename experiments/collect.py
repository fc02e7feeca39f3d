"""Record a trained agent's episodes: ``python experiments/collect.py RUN_DIR --name halfcheetah/flow-sac-v0``."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper

from experiments.evaluate import load
from experiments.run import positive, seed
from experiments.training.demonstrations import check_name, import_minari
from experiments.training.environments import Environment, make_environment
from experiments.training.errors import UsageError, one_line_errors
from experiments.training.provenance import git_state
from experiments.training.run_directory import RunDirectory

Act = Callable[[Any], NDArray[Any]]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: the arguments; those of the process by default
    :return: the arguments
    """
    parser = argparse.ArgumentParser(
        prog="collect.py",
        description="Record a trained agent's episodes as a Minari data set, for run.py --agent flow-bc --demos NAME.",
        epilog="Data sets lie in $MINARI_DATASETS_PATH, by default ~/.minari/datasets; `minari list local` shows them.",
    )
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="what experiments/run.py wrote")
    parser.add_argument("--name", required=True, help="of the data set, for example halfcheetah/flow-sac-v0")
    parser.add_argument("--model", choices=("best", "last"), default="best", help="which model (default: best)")
    parser.add_argument("--episodes", type=positive, default=20, metavar="N", help="default: 20")
    parser.add_argument("--seed", type=seed, default=0, help="of the environment and of sampling (default: 0)")
    parser.add_argument("--deterministic", action="store_true", help="the deterministic actions (default: sampled)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    return parser.parse_args(argv)


def check_free(name: str) -> None:
    """
    Refuse a name that is taken, or is none.

    :param name: the data set's
    """
    minari = import_minari()
    from minari.storage import get_dataset_path

    if get_dataset_path(check_name(name)).exists():
        kind = "data set" if name in minari.list_local_datasets() else "folder"
        raise UsageError(
            f"there is a {kind} {name!r} in {get_dataset_path()} already: choose another --name (or the next version), "
            f"or delete it: minari delete {name}"
        )


def record(
    env: gym.Env,
    act: Act,
    name: str,
    episodes: int,
    seed: int,
    begin: Callable[[], None] | None = None,
    **metadata: Any,
) -> NDArray[np.float64]:
    """
    Play episodes and keep them as a Minari data set.

    :param env: the environment; it gets the seeds ``seed``, ``seed + 1``, ...
    :param act: observation -> action
    :param name: of the data set, which must be free
    :param episodes: how many
    :param seed: the first episode's
    :param begin: called at the start of each episode
    :param metadata: for the data set, beside the mean return
    :return: the returns
    """
    minari = import_minari()
    # Images as they are, not as JPEG
    collector = minari.DataCollector(env, jpeg_encoding=False)
    returns = np.zeros(episodes)
    for episode in track(range(episodes), description="episodes", disable=not sys.stdout.isatty()):
        observation, _ = collector.reset(seed=seed + episode)
        if begin is not None:
            begin()
        done = False
        while not done:
            observation, reward, terminated, truncated, _ = collector.step(act(observation))
            returns[episode] += float(reward)
            done = terminated or truncated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an author, and such like
        dataset = collector.create_dataset(name, algorithm_name=str(metadata.get("agent", "scripted")))
    dataset.storage.update_metadata(
        metadata | dict(seed=seed, mean_return=float(returns.mean()), commit=(git_state() or {}).get("commit"))
    )
    collector.close()
    return returns


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    arguments = parse_arguments(argv)
    run = RunDirectory.open(arguments.run)
    check_free(arguments.name)
    model, trained_env = load(run, arguments.model, arguments.device)
    model.set_random_seed(arguments.seed)
    normalization = unwrap_vec_wrapper(trained_env, VecNormalize)

    def act(observation: Any) -> NDArray[Any]:
        # The data set holds observations as they are; a run that was trained on normalised ones gets them so.
        seen = observation if normalization is None else normalization.normalize_obs(observation)
        return model.predict(seen, deterministic=arguments.deterministic)[0]

    config = run.config
    returns = record(
        make_environment(Environment.of(config)),
        act,
        arguments.name,
        arguments.episodes,
        arguments.seed,
        agent=config["agent"],
        flow=config["flow"],
        model=arguments.model,
        deterministic=arguments.deterministic,
        run=run.path.name,
    )
    print(f"recorded {arguments.name}: {len(returns)} episodes, return {returns.mean():.1f} ± {returns.std():.1f}")
    environment = config["environment"]["id"]
    print(f"    python experiments/run.py --env {environment} --agent flow-bc --demos {arguments.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
