"""The first steps of a flow in PPO and A2C, with and without a gain: ``python experiments/studies/first_steps.py``.

Adam and RMSprop move every weight by about the learning rate, so that what a linear map gives moves by as much for each
of its inputs. SB3's Gaussian has a log-std that depends on no state; a flow's log-std and layers come from the context
map, and move many times as far in the first updates. ``flow_kwargs=dict(context_gain=g)`` makes these steps smaller by
g, ``conditioner_gain=g`` those of the last weights of a coupling's network. Measured, with g for both:

- PPO on Pendulum with the Zoo's settings, its learning rate of 1e-3 among them: KL(old || new) in the last of the ten
  epochs of the first update, the highest of any update, and the mean return of the last 100 of 100,000 steps' episodes;
- A2C at a learning rate of 0.01 where every reward is 1, so that the value of every state is 1 / (1 - 0.98) = 50: the
  value that it believes in after 10,000 steps. Its policy's gradient and its value's are clipped together.

Writes ``first_steps.csv`` and ``.json`` to ``experiments/results/``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from experiments.reports.results import ResultsParser, Row, write_results
from flowrl import algorithms

ZOO: dict[str, Any] = dict(n_steps=1024, gae_lambda=0.95, gamma=0.9, n_epochs=10, ent_coef=0.0, learning_rate=1e-3)
STEPS = dict(ppo=100_000, a2c=10_000)
GAMMA = 0.98  # of A2C
POLICIES: list[tuple[str | None, float]] = [
    (None, 1.0),  # SB3's Gaussian
    *((flow, gain) for flow in ("gaussian", "triangular", "nsf") for gain in (1.0, 0.125)),
]


class One(gym.Env):
    """Every reward is one, and it never ends."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self._observation(), 1.0, False, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Divergences(BaseCallback):
    """Keeps the divergence of every update, as PPO logs it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._on_training_end()

    def _on_training_end(self) -> None:
        if "train/approx_kl" in self.logger.name_to_value:
            self.kept.append(self.logger.name_to_value["train/approx_kl"])


def policy_of(flow: str | None, gain: float) -> dict[str, Any]:
    """What the constructor of an algorithm takes: a policy and its arguments."""
    if flow is None:
        return dict(policy="MlpPolicy")
    gains = dict(context_gain=gain) | (dict(conditioner_gain=gain) if flow == "nsf" else {})  # which has couplings
    return dict(policy="FlowPolicy", policy_kwargs=dict(flow=flow, flow_kwargs=gains))


def ppo(flow: str | None, gain: float, seed: int, steps: int) -> Iterator[tuple[str, float]]:
    """
    Train PPO on Pendulum.

    :param flow: the recipe; None: SB3's Gaussian
    :param gain: of the context map and the couplings' networks
    :param seed: of everything
    :param steps: of training
    :return: what was measured, and how much it is
    """
    env = make_vec_env("Pendulum-v1", 4, seed=seed)
    algorithm: Any = PPO if flow is None else algorithms.PPO
    model = algorithm(env=env, seed=seed, device="cpu", **ZOO, **policy_of(flow, gain))
    divergences = Divergences()
    model.learn(steps, callback=divergences, log_interval=None)
    yield "ppo: KL of the first update", divergences.kept[0]
    yield "ppo: highest KL of an update", max(divergences.kept)
    yield "ppo: return", float(np.mean([episode["r"] for episode in model.ep_info_buffer]))


def a2c(flow: str | None, gain: float, seed: int, steps: int) -> Iterator[tuple[str, float]]:
    """
    Train A2C where every reward is one; as :func:`ppo`.
    """
    model = A2C(env=One(), seed=seed, device="cpu", learning_rate=0.01, gamma=GAMMA, **policy_of(flow, gain))
    model.learn(steps)
    states = torch.rand(256, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        yield "a2c: value", model.policy.predict_values(states).mean().item()


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("first_steps.py", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of each policy (default: 3)")
    parser.add_argument("--steps", type=float, default=1.0, help="a share of the steps (default: 1)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in range(arguments.seeds):
        for flow, gain in POLICIES:
            for train in (ppo, a2c):
                for what, value in train(flow, gain, seed, round(arguments.steps * STEPS[train.__name__])):
                    rows.append(dict(what=what, flow=flow or "SB3's Gaussian", gain=gain, seed=seed, value=value))
                    print(f"{what}, {flow}, gain {gain}, seed {seed}: {value:.4g}", flush=True)
    write_results(arguments.output, "first_steps", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
