"""Why a flow: SAC where two actions are good and their mean is not: ``python experiments/studies/why.py``.

In ``flowrl/TwoGoodActions-v0`` the best policy is known. Unmodified SAC learns it with SB3's Gaussian and with flows,
all else the same; the gap of each to the optimum, KL(policy || optimum), is measured by quadrature. Writes ``why.png``,
``.csv`` and ``.json`` to ``experiments/results/``.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import SAC

import flowrl  # noqa: F401  registers the flow policies and the environment
from experiments.reports.density_panels import density_panels
from experiments.reports.results import ResultsParser, write_results
from flowrl.envs.two_good_actions import best_log_prob, grid, reward
from flowrl.policies.density import action_log_prob

ALPHA = 0.2  # SAC's entropy coefficient, held fixed
STEPS = 6_000


def train(flow: str | None, seed: int) -> SAC:
    """
    Train SAC in ``flowrl/TwoGoodActions-v0``.

    :param flow: the recipe; None: SB3's Gaussian
    :param seed: seed of everything
    :return: the trained model
    """
    policy, policy_kwargs = ("FlowPolicy", {"flow": flow}) if flow else ("MlpPolicy", {})
    model = SAC(
        policy,
        gym.make("flowrl/TwoGoodActions-v0"),
        learning_rate=1e-3,
        learning_starts=500,
        ent_coef=ALPHA,
        policy_kwargs=dict(net_arch=[64, 64], **policy_kwargs),
        seed=seed,
        device="cpu",
    )
    return model.learn(STEPS)


def evaluate(log_prob: NDArray[Any], log_optimum: NDArray[Any]) -> dict[str, float]:
    """
    Compare a density with the optimum on the grid.

    :param log_prob: the policy's log-density
    :param log_optimum: the optimum's
    :return: KL(policy || optimum) in nats, the mean reward, the mass that the grid sees (1 if it resolves the density)
    """
    actions, cell = grid()
    p = np.exp(log_prob)
    return dict(
        kl_to_optimum=float((p * (log_prob - log_optimum)).sum() * cell),
        mean_reward=float((p * reward(actions).numpy()).sum() * cell),
        mass=float(p.sum() * cell),
    )


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("why.py", __doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flows", nargs="+", default=["triangular", "nsf"], help="recipes (default: triangular nsf)")
    arguments = parser.parse_args(argv)

    actions, log_optimum = grid()[0], partial(best_log_prob, temperature=ALPHA)

    panels: list[tuple[str, Any]] = [("best policy, exp(r / α) / Z", log_optimum)]
    rows = []
    for flow in (None, *arguments.flows):
        name = f"flow-sac, {flow}" if flow else "Gaussian SAC"
        policy = train(flow, arguments.seed).policy

        @torch.no_grad()
        def log_prob(actions: torch.Tensor, policy: Any = policy) -> torch.Tensor:
            return action_log_prob(policy, torch.zeros(len(actions), 1), actions)

        row = evaluate(log_prob(actions).numpy().astype(float), log_optimum(actions).numpy().astype(float))
        rows.append(dict(policy=name, seed=arguments.seed, steps=STEPS, **{k: round(v, 4) for k, v in row.items()}))
        panels.append((f"{name}: {row['kl_to_optimum']:.2f} nats away", log_prob))
        print(rows[-1])

    figure = density_panels(panels)
    write_results(arguments.output, "why", rows)
    figure.savefig(arguments.output / "why.png", dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
