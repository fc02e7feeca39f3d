"""Cloning demonstrations that go left or right: ``python experiments/studies/imitation.py``.

A scripted demonstrator passes an obstacle on a side that it picks afresh in every episode. Flows and a Gaussian, with
the same networks and the same number of updates, clone it by maximum likelihood; then each acts in 200 episodes.
Writes ``imitation.png``, ``.csv`` and ``.json`` to ``experiments/results/``.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import gymnasium as gym
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

import flowrl  # noqa: F401  registers the flow policies
from experiments.collect import check_free, record
from experiments.reports.results import ResultsParser, circumstances, write_results
from experiments.training.demonstrations import import_minari, load
from experiments.training.environments import find_environment, make_environment
from experiments.training.errors import UsageError
from flowrl.algorithms import BehaviourCloning, Demonstrations
from flowrl.envs.obstacle import GOAL, RADIUS, REACH, Demonstrator

NAME = "obstacle/scripted-v0"
DEMONSTRATIONS = 500  # episodes
STEPS = 5_000  # updates of each policy
EPISODES = 200  # of each evaluation
FIRST_SEED = 1_000_000  # of the evaluations' episodes; those of the demonstrations begin at 0
SETTINGS: dict[str, Any] = dict(learning_rate=1e-3, batch_size=256, learning_starts=0, buffer_size=1, device="cpu")
NETWORK = [64, 64]

Trajectory = tuple[NDArray[Any], bool]
"""Positions, shape ``(steps + 1, 2)``, and whether the goal was reached."""


def demonstrate(env: gym.Env) -> None:
    """
    Record the demonstrations, unless they are there.

    :param env: the environment
    """
    minari = import_minari()
    if NAME in minari.list_local_datasets():
        episodes = minari.load_dataset(NAME).total_episodes
        if episodes != DEMONSTRATIONS:
            raise UsageError(f"{NAME} has {episodes} episodes, not {DEMONSTRATIONS}; delete it: minari delete {NAME}")
        return
    check_free(NAME)
    demonstrator = Demonstrator(seed=0)
    returns = record(env, demonstrator.act, NAME, DEMONSTRATIONS, seed=0, begin=demonstrator.begin, agent="scripted")
    print(f"recorded {NAME}: {DEMONSTRATIONS} episodes, {(returns > 0).mean():.1%} reach the goal")


def clone(env: gym.Env, train: Demonstrations, flow: str | None, seed: int) -> BehaviourCloning:
    """
    Fit a policy to demonstrations.

    :param env: the environment
    :param train: what to fit
    :param flow: the recipe; None: SB3's Gaussian
    :param seed: seed of everything
    :return: the model
    """
    policy, policy_kwargs = ("FlowPolicy", {"flow": flow}) if flow else ("MlpPolicy", {})
    model = BehaviourCloning(policy, env, policy_kwargs=dict(net_arch=NETWORK, **policy_kwargs), seed=seed, **SETTINGS)
    return model.imitate(train).learn(STEPS)


def play(model: BehaviourCloning, env: gym.Env, deterministic: bool, episodes: int) -> list[Trajectory]:
    """
    Let a model act.

    :param model: the model
    :param env: the environment
    :param deterministic: whether to take its deterministic actions
    :param episodes: how many
    :return: where it went
    """
    model.set_random_seed(FIRST_SEED)
    trajectories = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=FIRST_SEED + episode)
        positions, done, info = [observation[:2]], False, dict(is_success=False)
        while not done:
            action, _ = model.predict(observation, deterministic=deterministic)
            observation, _, terminated, truncated, info = env.step(action)
            positions.append(observation[:2])
            done = terminated or truncated
        trajectories.append((np.array(positions), bool(info["is_success"])))
    return trajectories


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """
    Wilson's score interval of a proportion (1927).

    :param successes: how many
    :param n: of how many
    :param z: quantile of the normal distribution; 1.96: a level of 95 %
    :return: its two ends
    """
    rate = successes / n
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return float(middle - half), float(middle + half)


def draw(axes: Axes, trajectories: list[Trajectory], title: str) -> None:
    """
    Show where a policy went: grey to the goal, red elsewhere.

    :param axes: where
    :param trajectories: the episodes
    :param title: above them
    """
    axes.add_patch(Circle((0, 0), RADIUS, color="0.85"))
    axes.add_patch(Circle(tuple(GOAL), REACH, color="tab:green", alpha=0.4))
    for positions, success in trajectories:
        color, width, order = ("tab:blue", 0.5, 1) if success else ("tab:red", 0.8, 2)
        axes.plot(*positions.T, color=color, linewidth=width, alpha=0.6, zorder=order)
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.25, 1.25), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    axes.set_title(title, fontsize=11)


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("imitation.py", __doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flows", nargs="+", default=["triangular", "nsf"], help="recipes (default: triangular nsf)")
    arguments = parser.parse_args(argv)
    try:
        env = make_environment(find_environment("flowrl/Obstacle"))
        demonstrate(env)
        train, held_out = load(NAME, env.observation_space, env.action_space)  # type: ignore[arg-type]
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    demonstrated = [
        (episode.observations[:, :2], episode.rewards[-1] > 0)
        for episode in import_minari().load_dataset(NAME).iterate_episodes()
    ]
    panels: list[tuple[list[Trajectory], str]] = [(demonstrated[:EPISODES], "demonstrations")]
    rows = []
    for flow in (None, *arguments.flows):
        name = f"flow, {flow}" if flow else "Gaussian"
        model = clone(env, train, flow, arguments.seed)
        likelihood = model.mean_log_likelihood(held_out)
        for actions in ("sampled", "deterministic"):
            trajectories = play(model, env, actions == "deterministic", EPISODES)
            successes = sum(success for _, success in trajectories)
            low, high = wilson(successes, EPISODES)
            rows.append(
                dict(
                    policy=name,
                    actions=actions,
                    episodes=EPISODES,
                    successes=successes,
                    success_rate=round(successes / EPISODES, 4),
                    wilson_low=round(low, 4),
                    wilson_high=round(high, 4),
                    log_likelihood_held_out=round(likelihood, 4),
                    parameters=sum(parameter.numel() for parameter in model.actor.parameters()),
                    updates=STEPS,
                    demonstrations=DEMONSTRATIONS,
                    seed=arguments.seed,
                )
            )
            print(rows[-1])
            if actions == "sampled":
                panels.append((trajectories, f"{name}: {successes / EPISODES:.1%} reach the goal"))

    figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels):
        draw(axes, *panel)
    data = import_minari().load_dataset(NAME).storage.metadata
    demonstrations = {key: data[key] for key in ("dataset_id", "seed", "mean_return", "commit", "minari_version")}
    write_results(arguments.output, "imitation", rows, circumstances() | dict(demonstrations=demonstrations))
    figure.savefig(arguments.output / "imitation.png", dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
