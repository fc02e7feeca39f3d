"""How fast flow agents train beside their Gaussian peer: ``python experiments/benchmark.py``.

Every contender is a full model on the same environment. They take turns (A B C A B C ...) for the same number of
environment steps, so that whatever else the machine does meets all of them; medians and their ratio to the first one
are printed and written to ``experiments/results/speed.csv`` and ``.json``.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from agents import hyperparameters, make_agent, model_arguments
from experiments.results import RESULTS, write_results

WARM_UP = 300  # environment steps before the clock runs


def contender(agent: str, flow: str | None, env: str) -> BaseAlgorithm:
    """
    A SAC agent that updates at every step from the first.

    :param agent: ``sac`` or ``flow-sac``
    :param flow: the flow agent's recipe
    :param env: environment id
    :return: the model, warmed up
    """
    settings = model_arguments(hyperparameters("sac", gym.spec(env).name))
    settings["learning_starts"] = 2
    if flow:
        settings["policy_kwargs"]["flow"] = flow
    return make_agent(agent, make_vec_env(env, seed=0), settings, seed=0, device="cpu").learn(WARM_UP)


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Speed of flow-sac beside sac, taking turns.")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--flows", nargs="+", default=["triangular", "nsf"], help="recipes (default: triangular nsf)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument("--steps", type=int, default=200, help="environment steps a turn (default: 200)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where (default: experiments/results)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)

    models = {"sac": contender("sac", None, arguments.env)}
    models |= {f"flow-sac ({flow})": contender("flow-sac", flow, arguments.env) for flow in arguments.flows}
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.learn(arguments.steps, reset_num_timesteps=False)
            speeds[name].append(arguments.steps / (time.perf_counter() - start))

    rows = []
    for name, measured in speeds.items():
        # Each turn against the Gaussian's turn beside it: a slow minute of the machine cancels out.
        ratio = statistics.median(ours / peer for ours, peer in zip(measured, speeds["sac"]))
        median, low, high = statistics.median(measured), min(measured), max(measured)
        rows.append(
            dict(
                agent=name,
                env=arguments.env,
                threads=arguments.threads,
                rounds=arguments.rounds,
                steps_per_second=round(median, 1),
                lowest=round(low, 1),
                highest=round(high, 1),
                ratio_to_sac=round(ratio, 3),
            )
        )
        print(f"{name:<24} {median:7.1f} steps/s ({low:.1f} to {high:.1f})   {ratio:.2f} x sac")

    write_results(arguments.output, "speed", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
