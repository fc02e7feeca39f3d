"""Are critics' values and distributions true? ``python experiments/studies/calibration.py RUN_DIR [RUN_DIR ...]``.

Plays fresh episodes with sampled actions, and asks how often the discounted return from a state, with the entropy terms
that the critic's targets hold, lies in the 90 % interval that the critic gave for it. Returns are taken from the first
half of an episode that ends by its time limit, whose rest is then worth little (0.99^500 is 0.7 %), and from everywhere
in one that terminates. Also says how far off the critics' values are, on average and the smaller of them, which targets
are made of. SAC's critics give values alone, and no interval. Writes ``calibration.csv`` and ``.json``.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.reports.results import ResultsParser, Row, write_results
from flowrl.algorithms import NFAC
from flowrl.algorithms.sac.update import temperature

LEVELS = (0.5, 0.9)
EVERY = 25  # steps between the states that are asked: neighbours have almost the same return


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("calibration.py", __doc__, runs="of nfac or flow-sac")
    parser.add_argument("--episodes", type=int, default=200, help="of each run (default: 200)")
    arguments = parser.parse_args(argv)
    write_results(arguments.output, "calibration", [row_of(run, arguments.episodes) for run in arguments.runs])
    return 0


def row_of(path: Path, n_episodes: int) -> Row:
    """
    :param path: of a run
    :param n_episodes: how many are played
    :return: the part of returns that each interval covers (of SAC: None), and mean errors
    """
    from experiments.studies.measures import open_model  # SB3 takes seconds to import
    from experiments.training.run_directory import RunDirectory

    model, env = open_model(path)
    states, actions, returns = (np.concatenate(part) for part in zip(*(play(model, env, i) for i in range(n_episodes))))
    config = RunDirectory.open(path).config
    row: Row = dict(
        env=config["environment"]["name"],
        agent=config["agent"],
        flow=config["flow"],
        seed=config["seed"],
        states=len(states),
    )
    distribution = model.returns(states, actions) if isinstance(model, NFAC) else None
    for level in LEVELS:
        row[f"covered_{level:.0%}".rstrip("%")] = coverage(*distribution, returns, level) if distribution else None
    values = values_of(model, states, actions)
    row["mean_return"] = round(float(returns.mean()), 2)
    row["mean_error"] = round(float((values.mean(0) - returns).mean()), 2)
    row["smaller_error"] = round(float((values.min(0) - returns).mean()), 2)
    return row


def coverage(atoms: NDArray[Any], weights: NDArray[Any], returns: NDArray[Any], level: float) -> float:
    """
    :param atoms: of each state's distribution, in increasing order, shape ``(batch, n)``
    :param weights: of the atoms
    :param returns: from the states
    :param level: of the central interval
    :return: the part of the returns that lies within it
    """
    total = weights.cumsum(1) / weights.sum(1, keepdims=True)
    low, high = (_quantile(atoms, total, q) for q in ((1 - level) / 2, (1 + level) / 2))
    return round(float(((returns >= low) & (returns <= high)).mean()), 4)


@torch.no_grad()
def values_of(model: Any, states: NDArray[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """
    The mean return by each critic.

    :param model: NFAC or SAC
    :param states: a batch
    :param actions: in the environment's units
    :return: in the environment's rewards, shape ``(n_critics, batch)``
    """
    obs, _ = model.policy.obs_to_tensor(states)
    scaled = torch.as_tensor(model.policy.scale_action(actions), device=model.device)
    return torch.cat(model.critic(obs, scaled), 1).T.cpu().numpy() * getattr(model, "reward_scale", 1.0)


@torch.no_grad()
def play(model: Any, env: Any, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """
    An episode of sampled actions.

    :param model: NFAC or SAC
    :param env: one environment, not normalised
    :param seed: of its reset
    :return: states and actions every few steps, and the discounted soft return from each, in the environment's rewards
    """
    observation, _ = env.reset(seed=seed)
    alpha = temperature(model).item()
    states, actions, rewards, bonuses = [], [], [], []
    ended = terminated = False
    while not ended:
        obs, _ = model.policy.obs_to_tensor(observation)
        scaled, log_prob = model.actor.action_log_prob(obs)
        action = model.policy.unscale_action(scaled.cpu().numpy())[0]
        states.append(observation)
        actions.append(action)
        bonuses.append(-alpha * getattr(model, "reward_scale", 1.0) * log_prob.item())
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        ended = terminated or truncated
    returns, soft = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        returns[t] = rewards[t] + model.gamma * soft  # of the action as well: its own entropy is not in it
        soft = returns[t] + bonuses[t]
    last = len(rewards) if terminated else len(rewards) // 2
    chosen = np.arange(0, last, EVERY)
    return np.array(states)[chosen], np.array(actions)[chosen], returns[chosen]


def _quantile(values: NDArray[Any], total: NDArray[Any], level: float) -> NDArray[Any]:
    """Of each row's atoms, whose weights add up to ``total``."""
    index = (total < level).sum(1).clip(max=values.shape[1] - 1)
    return values[np.arange(len(values)), index]


if __name__ == "__main__":
    sys.exit(main())
