"""How near a run's last model is to the optimum of its task, measure by measure; see `known_optimum.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.evaluate import load
from experiments.training.run_directory import RunDirectory
from flowrl.envs.quadrature import grid
from flowrl.policies.density import action_log_prob, sample_actions

EPISODES = 500
SAMPLES = 20_000


def open_model(path: Path) -> tuple[Any, Any]:
    """
    :param path: of a run
    :return: its last model, and its environment
    """
    torch.manual_seed(0)
    model, env = load(RunDirectory.open(path), "last", "cpu")
    return model, env.envs[0]  # type: ignore[attr-defined]


@torch.no_grad()
def energy_bandit(path: Path) -> dict[str, Any]:
    """KL(policy || best policy) by quadrature, which is the gap to the soft optimum in units of alpha."""
    model, wrapped = open_model(path)
    env = wrapped.unwrapped
    alpha = float(model.ent_coef_tensor)
    actions, cell = grid(400, 2)
    points = torch.as_tensor(actions, dtype=torch.float32)
    log_pi = action_log_prob(model.policy, torch.zeros(len(points), 1), points).numpy().astype(float)
    density = np.exp(log_pi) * cell
    kl = (density * (log_pi - env.best_log_prob(np.asarray(actions), alpha))).sum()
    optimum, gaussian = env.optimum(alpha), env.gaussian_optimum(alpha)
    return dict(
        alpha=alpha,
        kl=round(kl, 4),
        mass=round(density.sum(), 4),
        soft_optimum=round(optimum, 4),
        kl_of_best_gaussian=round((optimum - gaussian) / alpha, 4),
    )


@torch.no_grad()
def hidden_goal(path: Path) -> dict[str, Any]:
    """The success of the sampled policy, from its probability of each goal; and that of the evaluations before."""
    model, wrapped = open_model(path)
    env = wrapped.unwrapped
    actions = sample_actions(model.policy, torch.zeros(SAMPLES, 1)).numpy()
    distance = np.linalg.norm(actions[:, None] - env.goals, axis=-1)
    hits = (distance < env.radius).mean(0)
    return dict(
        success=round(env.success(hits), 4),
        **dict(zip(("goal_1", "goal_2", "goal_3", "goal_4"), hits.round(4).tolist())),
        lowest_in_last_half=round(lowest_in_last_half(path), 4),
        optimum=round(env.optimum(), 4),
    )


def corridor(path: Path) -> dict[str, Any]:
    """The sampled policy's success."""
    model, env = open_model(path)
    infos = last_infos(model, env, EPISODES)
    success = np.mean([info["is_success"] for info in infos])
    return dict(success=round(float(success), 4), lowest_in_last_half=round(lowest_in_last_half(path), 4))


def multi_goal(path: Path) -> dict[str, Any]:
    """Which goals 100 rollouts of the sampled policy reach."""
    model, env = open_model(path)
    infos = last_infos(model, env, 100)
    counts = np.array([sum(info["goal"] == i for info in infos) for i in range(len(env.unwrapped.goals))])
    return dict(**{f"goal_{i + 1}": int(count) for i, count in enumerate(counts)}, entropy=round(entropy_of(counts), 4))


def entropy_of(counts: NDArray[Any]) -> float:
    """Of a histogram, in nats."""
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(p * np.log(p)).sum())


def last_infos(model: Any, env: Any, episodes: int) -> list[dict[str, Any]]:
    """What the environment says at the end of each episode of the sampled policy."""
    infos = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        over = False
        while not over:
            obs, _, terminated, truncated, info = env.step(model.predict(obs)[0])
            over = terminated or truncated
        infos.append(info)
    return infos


def lowest_in_last_half(path: Path) -> float:
    """The lowest mean return of sampled actions among the evaluations of the last half of training."""
    rows = RunDirectory.open(path).evaluations()
    return min(row["sampled_mean_return"] for row in rows if row["step"] >= rows[-1]["step"] / 2)
