"""Why a flow: SAC where two actions are good and their mean is not: ``python experiments/studies/why.py``.

The environment has one step and a known optimum: at temperature alpha, the best policy has the density
exp(r(a) / alpha) / Z. Unmodified SAC learns it with SB3's Gaussian and with flows, all else the same; the
gap of each to the optimum, KL(policy || optimum), is measured by quadrature. Writes ``why.png``, ``.csv`` and ``.json``
to ``experiments/results/``.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from matplotlib.figure import Figure
from numpy.typing import NDArray
from stable_baselines3 import SAC

import flowrl  # noqa: F401  registers the flow policies
from experiments.reports.results import results_parser, write_results
from flowrl.plots.densities import plot_density
from flowrl.policies.density import action_log_prob

ALPHA = 0.2  # SAC's entropy coefficient, held fixed
STEPS = 6_000
GRID = 200  # points along each side of the action box for the quadrature


class TwoGoodActions(gym.Env):
    """Pass an obstacle on its left or on its right: one observation, one step, two good actions and a bad mean."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        return np.zeros(1, np.float32), float(reward(torch.as_tensor(action))), True, False, {}


def reward(action: torch.Tensor) -> torch.Tensor:
    """
    Zero at its two best, bent ridges, down to -1 away from them.

    :param action: shape ``(*, 2)``
    :return: shape ``(*,)``
    """
    x, y = action.unbind(-1)
    return (-((x.abs() - 0.65 + 0.5 * y.square()) / 0.2).square()).exp() * (-((y / 0.55) ** 4)).exp() - 1


def train(flow: str | None, seed: int) -> SAC:
    """
    Train SAC in :class:`TwoGoodActions`.

    :param flow: the recipe; None: SB3's Gaussian
    :param seed: seed of everything
    :return: the trained model
    """
    policy, policy_kwargs = ("FlowPolicy", {"flow": flow}) if flow else ("MlpPolicy", {})
    model = SAC(
        policy,
        TwoGoodActions(),
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
    cell = (2 / GRID) ** 2
    p = np.exp(log_prob)
    return dict(
        kl_to_optimum=float((p * (log_prob - log_optimum)).sum() * cell),
        mean_reward=float((p * reward(grid()).numpy()).sum() * cell),
        mass=float(p.sum() * cell),
    )


def grid() -> torch.Tensor:
    """Midpoints of equal cells of the action box, shape ``(GRID^2, 2)``."""
    axis = -1 + (torch.arange(GRID) + 0.5) * 2 / GRID
    return torch.cartesian_prod(axis, axis)


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = results_parser("why.py", __doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flows", nargs="+", default=["triangular", "nsf"], help="recipes (default: triangular nsf)")
    arguments = parser.parse_args(argv)

    actions = grid()
    log_z = torch.logsumexp(reward(actions) / ALPHA, 0) + np.log((2 / GRID) ** 2)

    def log_optimum(actions: torch.Tensor) -> torch.Tensor:
        return reward(actions) / ALPHA - log_z

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

    figure = Figure(figsize=(3.4 * len(panels), 3.8), layout="constrained")
    for axes, (title, log_density) in zip(figure.subplots(1, len(panels)), panels):
        plot_density(log_density, axes, -1.0, 1.0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("action 1")
    figure.axes[0].set_ylabel("action 2")

    write_results(arguments.output, "why", rows)
    figure.savefig(arguments.output / "why.png", dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
