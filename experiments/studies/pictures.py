"""What agents have learned in tasks with a known optimum, in pictures; see `known_optimum.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from experiments.reports.density_panels import density_panels
from experiments.studies.measures import copies, energy_bandit_log_prob, open_model
from flowrl.algorithms import NFQ

TRAJECTORIES = 60
POINTS = 80  # a side of what is drawn as contours


def energy_bandit(runs: dict[str, Path]) -> Figure:
    """
    :param runs: of agents, by what they are called
    :return: the best policy's density and the agents'
    """
    _, env = open_model(next(iter(runs.values())))
    panels: list[tuple[str, Any]] = []
    for name, run in runs.items():
        model, _ = open_model(run)
        alpha = float(model.ent_coef_tensor)
        panels.append((name, lambda actions, model=model: energy_bandit_log_prob(model, actions)))

    def best(actions: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(env.unwrapped.best_log_prob(actions.numpy(), alpha))

    panels.insert(0, (f"best policy at alpha = {alpha:g}", best))
    return density_panels(panels)


def hidden_goal(runs: dict[str, Path]) -> Figure:
    """
    :param runs: of agents, by what they are called
    :return: the actions that each samples in the one state, and where goals hide
    """
    figure = Figure(figsize=(2.6 * len(runs), 3.0), layout="constrained")
    for axes, (name, run) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items()):
        model, env = open_model(run)
        actions, _ = model.predict(np.zeros((2_000, 1), np.float32))
        axes.scatter(*actions.T, s=2, color="#4c72b0", linewidths=0)
        for goal in env.unwrapped.goals:
            axes.add_patch(Circle(goal, env.unwrapped.radius, fill=False, color="#d95f02", linewidth=1.5))
        axes.set(title=name, xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel="action 1", ylabel="action 2")
        axes.label_outer()
    return figure


def multi_goal(runs: dict[str, Path]) -> Figure:
    """
    :param runs: of agents, by what they are called
    :return: above, where their sampled episodes go, over the value of where they are; below, Q at the start
    """
    figure = Figure(figsize=(4.2 * len(runs) + 0.6, 8.2), layout="constrained")
    rows = figure.subplots(2, len(runs), squeeze=False)
    for (name, run), above, below in zip(runs.items(), *rows):
        model, env = open_model(run)
        bound = float(env.observation_space.high[0])
        places = _grid(bound)
        drawn = above.contourf(*_axes(bound), _values(model, places).reshape(POINTS, POINTS).T, 24, cmap="viridis")
        figure.colorbar(drawn, ax=above, label="soft value", shrink=0.8)
        for path in _paths(model, copies(env, TRAJECTORIES)):
            above.plot(*path.T, color="white", linewidth=0.8, alpha=0.7)
        above.scatter(*env.unwrapped.goals.T, color="#d95f02", s=60, zorder=3, label="goals")
        above.set(title=name, xlabel="x", ylabel="y", aspect="equal")
        actions = _grid(1.0)
        q = _q(model, np.zeros_like(actions), actions).reshape(POINTS, POINTS).T
        drawn = below.contourf(*_axes(1.0), q, np.linspace(np.quantile(q, 0.05), q.max(), 24), extend="min")
        figure.colorbar(drawn, ax=below, label="Q at the start (0, 0)", shrink=0.8, format="%.0f")
        sampled, _ = model.predict(np.zeros((200, 2), np.float32))
        below.scatter(*sampled.T, color="white", s=4, label="sampled actions")
        below.set(xlabel="action 1", ylabel="action 2", aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
    return figure


def _axes(bound: float) -> tuple[NDArray[Any], NDArray[Any]]:
    middles = bound * (2 * (np.arange(POINTS) + 0.5) / POINTS - 1)
    return middles, middles


def _grid(bound: float) -> NDArray[np.float32]:
    x, y = np.meshgrid(*_axes(bound), indexing="ij")
    return np.stack((x, y), -1).reshape(-1, 2).astype(np.float32)


@torch.no_grad()
def _q(model: Any, states: NDArray[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """The lower of the two critics."""
    if isinstance(model, NFQ):
        return model.q_values(states.astype(np.float32), actions).min(1)
    q = model.critic(torch.as_tensor(states, dtype=torch.float32), torch.as_tensor(actions))
    return torch.cat(q, 1).amin(1).numpy()


@torch.no_grad()
def _values(model: Any, states: NDArray[Any]) -> NDArray[Any]:
    """NFQ's own; of an actor and its critic, E[Q - alpha log pi] of sampled actions."""
    observations = torch.as_tensor(states)
    if isinstance(model, NFQ):
        return model.critic(observations).amin(1).numpy()
    total = torch.zeros(len(states))
    for _ in range(8):
        actions, log_prob = model.actor.action_log_prob(observations)
        q = torch.cat(model.critic(observations, actions), 1).amin(1)
        total += (q - float(model.ent_coef_tensor) * log_prob.flatten()) / 8
    return total.numpy()


def _paths(model: Any, envs: list[Any]) -> list[NDArray[Any]]:
    """Where sampled episodes go."""
    paths = []
    for seed, env in enumerate(envs):
        observation, _ = env.reset(seed=seed)
        path, over = [observation], False
        while not over:
            observation, _, terminated, truncated, _ = env.step(model.predict(observation)[0])
            path.append(observation)
            over = terminated or truncated
        paths.append(np.array(path))
    return paths
