"""How near a run's last model is to the optimum of its task, measure by measure; see `known_optimum.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from experiments.evaluate import load
from experiments.training.run_directory import RunDirectory
from flowrl.envs.quadrature import grid
from flowrl.policies.density import action_log_prob, sample_actions

EPISODES = 500
STATES = 100
SAMPLES = 20_000


def open_model(path: Path) -> tuple[Any, Any]:
    """
    :param path: of a run
    :return: its last model, and its environment
    """
    torch.manual_seed(0)
    model, env = load(RunDirectory.open(path), "last", "cpu")
    return model, env.envs[0]  # type: ignore[attr-defined]


def energy_bandit(path: Path) -> dict[str, Any]:
    """KL(policy || best policy) by quadrature, which is the gap to the soft optimum in units of alpha."""
    model, wrapped = open_model(path)
    env = wrapped.unwrapped
    alpha = float(model.ent_coef_tensor)
    actions, cell = grid(400, 2)
    log_pi = energy_bandit_log_prob(model, torch.as_tensor(actions)).numpy()
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
def energy_bandit_log_prob(model: Any, actions: torch.Tensor) -> torch.Tensor:
    """A model's log-density in the one state, ``(n, 2) -> (n,)``, in float64."""
    return action_log_prob(model.policy, torch.zeros(len(actions), 1), actions.float()).double()


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
    success = np.mean([info["is_success"] for info in last_infos(model, copies(env, EPISODES))])
    return dict(success=round(float(success), 4), lowest_in_last_half=round(lowest_in_last_half(path), 4))


def multi_goal(path: Path) -> dict[str, Any]:
    """Which goals 100 rollouts of the sampled policy reach."""
    model, env = open_model(path)
    counts = goal_counts(model, copies(env, 100))
    return dict(**{f"goal_{i + 1}": int(count) for i, count in enumerate(counts)}, entropy=round(entropy_of(counts), 4))


@torch.no_grad()
def noisy_lqr(path: Path) -> dict[str, Any]:
    """
    NFQ's V, and its policy's mean and covariance, against the closed form, in starts of episodes.

    Also in those alone that are within two standard deviations of the origin: nothing but a start is farther away, so
    that there the agent has seen little.
    """
    model, wrapped = open_model(path)
    gamma = RunDirectory.open(path).config["hyperparameters"]["gamma"]
    best = wrapped.unwrapped.optimum(model.temperature, gamma)
    starts = np.stack([wrapped.reset(seed=seed)[0] for seed in range(STATES)])
    observations = torch.as_tensor(starts)
    of_states = (model.actor.get_distribution(one).distribution for one in observations.split(1))
    actions = [np.tanh(pi.rsample((SAMPLES,)).numpy())[:, 0] for pi in of_states]
    covariances = np.stack([np.cov(a.T) for a in actions])
    pairs = dict(
        value_error=(model.critic(observations).numpy().mean(1), best.value(starts)),
        mean_error=(np.stack([a.mean(0) for a in actions]), best.mean(starts)),
        covariance_error=(covariances, np.broadcast_to(best.covariance, covariances.shape)),
    )
    near = np.linalg.norm(starts, axis=1) < 2 * wrapped.unwrapped.spread
    return dict(
        alpha=round(model.temperature, 4),
        **{name: relative_error(*pair) for name, pair in pairs.items()},
        near=int(near.sum()),
        **{f"{name}_near": relative_error(ours[near], truth[near]) for name, (ours, truth) in pairs.items()},
    )


def relative_error(values: NDArray[Any], truth: NDArray[Any]) -> float:
    """The mean norm of the error in a state, over the mean norm of the truth; arrays of one row a state."""
    rows = (len(truth), -1)
    error, scale = (np.linalg.norm(array.reshape(rows), axis=1).mean() for array in (values - truth, truth))
    return round(float(error / scale), 4)


def return_chain(path: Path) -> dict[str, Any]:
    """
    Which branch NFAC takes, and how far its return distributions of both are from the truth at the first state.

    The distance is Wasserstein's first, over the range within which 99.8 % of both branches' true returns lie.
    """
    model, wrapped = open_model(path)
    branches = wrapped.unwrapped.optimum(RunDirectory.open(path).config["hyperparameters"]["gamma"])
    start, actions = np.zeros((2, 2), np.float32), np.array([[-0.5], [0.5]], np.float32)
    levels = (np.arange(1_000) + 0.5) / 1_000
    truth = [branches[name][0].quantile(levels) for name in ("safe", "risky")]
    length = max(t[-1] for t in truth) - min(t[0] for t in truth)
    distances = []
    for quantiles, atoms, weights in zip(truth, *model.returns(start, actions)):
        ours = atoms[np.searchsorted(weights.cumsum() / weights.sum(), levels).clip(max=len(atoms) - 1)]
        distances.append(round(float(np.abs(ours - quantiles).mean() / length), 4))
    chosen = model.predict(start[:1], deterministic=True)[0].item()
    drawn = model.predict(np.zeros((500, 2), np.float32))[0]
    return dict(
        risk=model.risk,
        distance_safe=distances[0],
        distance_risky=distances[1],
        branch="safe" if chosen < 0 else "risky",
        sampled_risky=round(float((drawn >= 0).mean()), 3),
    )


def entropy_of(counts: NDArray[Any]) -> float:
    """Of a histogram, in nats."""
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(p * np.log(p)).sum())


def last_infos(model: Any, envs: Sequence[Any]) -> list[dict[str, Any]]:
    """
    Let the sampled policy play an episode in each of some environments, in all of them at once.

    :param model: whose policy it is
    :param envs: not normalised, and of short episodes
    :return: what each environment says at the end
    """
    observations = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    infos: list[dict[str, Any]] = [{} for _ in envs]
    playing = list(range(len(envs)))
    while playing:
        actions, _ = model.predict(np.stack([observations[i] for i in playing]))
        still = []
        for i, action in zip(playing, actions):
            observations[i], _, terminated, truncated, infos[i] = envs[i].step(action)
            still += [i] * (not (terminated or truncated))
        playing = still
    return infos


def copies(env: Any, n: int) -> list[Any]:
    """More environments of the same kind."""
    return [gym.make(env.unwrapped.spec) for _ in range(n)]


def goal_counts(model: Any, envs: Sequence[Any]) -> NDArray[np.int64]:
    """How often each goal of `MultiGoal` is reached, one episode an environment."""
    infos, n = last_infos(model, envs), len(envs[0].unwrapped.goals)
    return np.array([sum(info["goal"] == i for info in infos) for i in range(n)])


def lowest_in_last_half(path: Path) -> float:
    """The lowest mean return of sampled actions among the evaluations of the last half of training."""
    rows = RunDirectory.open(path).evaluations()
    return min(row["sampled_mean_return"] for row in rows if row["step"] >= rows[-1]["step"] / 2)
