"""What moves the policy in an update of PPO, its mean or its shape: ``python experiments/studies/divergence.py``.

PPO holds an update to what its clipped ratio allows. Where a flow's shape takes most of that, the mean moves less. On
Hopper, with the agent flow-ppo's hyperparameters, the divergence KL(old || new) of an update is estimated from the
rollout by Schulman's E[(r - 1) - log r], r the ratio of densities. ``all`` is the whole new policy; in ``mean``,
``scale`` and ``layers`` one part alone has moved, to what the new weights make of the old features. The parts do not
add up to the whole: the features move as well, and parts can make up for each other.

Writes ``divergence.csv`` and ``.json`` to ``experiments/results/``.
"""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from agents import find_agent, hyperparameters, make_agent, model_arguments
from experiments.reports.results import ResultsParser, Row, write_results
from experiments.training.environments import find_environment, make_vector_environment

POLICIES: dict[str, dict[str, Any]] = {
    "gaussian": dict(flow="gaussian"),
    "affine": dict(flow="affine"),
    "triangular": dict(flow="triangular"),
    "triangular, gain 1/32": dict(flow="triangular", flow_kwargs=dict(context_gain=1 / 32)),
    "nsf": dict(flow="nsf"),
}
PARTS = ("mean", "scale", "layers")


class Divergences(BaseCallback):
    """
    Measures every so many updates.

    :param every: updates between two measurements
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.updates = every, 0
        self.old: Any = None
        self.kept: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.updates += 1
        if self.updates % self.every == 0:
            buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
            self.old = deepcopy(self.model.policy)
            self.observations, self.actions = (
                torch.as_tensor(part).flatten(0, 1).clone() for part in (buffer.observations, buffer.actions)
            )

    def _on_rollout_start(self) -> None:
        self._on_training_end()

    @torch.no_grad()
    def _on_training_end(self) -> None:
        if self.old is not None:
            self.kept.append(divergences(self.old, self.model.policy, self.observations, self.actions))
            self.old = None


def divergences(old: Any, new: Any, observations: Tensor, actions: Tensor) -> dict[str, float]:
    """
    KL(old || new), of the whole and where one part has moved.

    :param old: a flow policy for PPO
    :param new: another of the same shape
    :param observations: as the policy sees them, shape ``(n, ...)``
    :param actions: sampled from ``old``, before the squash, shape ``(n, d)``
    :return: part to divergence, nats
    """
    flow, other, d = old.action_net, new.action_net, old.action_net.features
    features, moved_features = (
        each.mlp_extractor.forward_actor(each.extract_features(observations)) for each in (old, new)
    )
    before, after = flow.context_map(features), other.context_map(features)
    log_prob = flow.from_parameters(before).log_prob(actions)

    def divergence(moved: Tensor) -> float:
        log_ratio = moved - log_prob
        return (log_ratio.expm1() - log_ratio).mean().item()

    found = dict(all=divergence(other.from_parameters(other.context_map(moved_features)).log_prob(actions)))
    for part, columns in zip(PARTS, (slice(0, d), slice(d, 2 * d), slice(2 * d, None)), strict=True):
        mixed = before.clone()
        mixed[:, columns] = after[:, columns]
        # The layers of a coupling have networks of their own
        owner = other if part == "layers" else flow
        found[part] = divergence(owner.from_parameters(mixed).log_prob(actions))
    return found


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("divergence.py", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of each policy (default: 3)")
    parser.add_argument("--steps", type=int, default=100_000, help="of training (default: 100000)")
    parser.add_argument("--every", type=int, default=8, help="updates between two measurements (default: 8)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    agent, environment = find_agent("flow-ppo"), find_environment("Hopper")
    settings = hyperparameters(agent.table, environment.name)
    rows: list[Row] = []
    for seed in range(arguments.seeds):
        for name, policy in POLICIES.items():
            env = make_vector_environment(environment, settings["n_envs"], settings["normalize"], settings["gamma"])
            chosen = model_arguments(settings)
            chosen["policy_kwargs"] = chosen["policy_kwargs"] | policy
            model = make_agent(agent, env, chosen, seed=seed, device="cpu")
            callback = Divergences(arguments.every)
            model.learn(arguments.steps, callback=callback, log_interval=None)  # type: ignore[arg-type]
            for part in ("all", *PARTS):
                values = [each[part] for each in callback.kept]
                row = dict(policy=name, seed=seed, part=part, divergence=float(np.mean(values)))
                rows.append(row)
                print(f"{name}, seed {seed}, {part}: {row['divergence']:.4f}", flush=True)
            env.close()
    write_results(arguments.output, "divergence", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
