"""A goal hidden at one of a few places, and a few tries to find it: who never looks elsewhere often never finds it.

The observation is always the same, so that a policy is one density of actions. Let p_k be its probability of the disc
around goal k. An episode draws one of n goals and allows T independent tries:

    success = 1/n sum_k (1 - (1 - p_k)^T).

The discs are disjoint, so that sum_k p_k <= 1, and each term is concave in p_k: the best is p_k = 1/n (Jensen), with
success 1 - (1 - 1/n)^T, 0.763 for four goals and five tries. A deterministic policy finds one goal of n. A squashed
Gaussian does hardly better: a single disc is 1/n, and to be in two of them it must be wide, so that it misses both.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from flowrl.envs.quadrature import squashed_normal_probability, squashed_normals
from flowrl.options import between, points, whole

GOALS = ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5))
STRIPS = 32  # into which a disc is cut


class HiddenGoal(gym.Env):
    """
    Find the hidden goal: an action in [-1, 1]^d within ``radius`` of it ends the episode with reward 1.

    Every other action has reward 0. After ``tries`` of them the episode terminates, and is not merely truncated: a
    value bootstrapped through the limit would pay a maximum-entropy agent for keeping away from the goals. ``info``
    holds ``is_success``, and ``goal``, the index of the hidden one.

    :param goals: where it may be, each equally likely; by default half-way out on the first two axes, either way
    :param radius: of the discs, which must not touch one another
    :param tries: actions in an episode
    :param dimensions: d
    :param render_mode: ``"rgb_array"``, for two dimensions
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(
        self,
        goals: ArrayLike | None = None,
        radius: float = 0.1,
        tries: int = 5,
        dimensions: int = 2,
        render_mode: str | None = None,
    ) -> None:
        self.dimensions = whole("dimensions", dimensions, 2)
        self.goals = points("goals", _pad(GOALS, dimensions) if goals is None else goals, dimensions, 1.0)
        self.radius = between("radius", radius, 0)
        distances = np.linalg.norm(self.goals[:, None] - self.goals, axis=-1)[~np.eye(len(self.goals), dtype=bool)]
        if distances.min(initial=np.inf) <= 2 * radius:
            raise ValueError(
                f"radius must be less than half of the smallest distance between two goals, {distances.min():g}, "
                f"got {radius}."
            )
        if render_mode is not None and dimensions != 2:
            raise ValueError(f"render_mode={render_mode!r} draws 2 dimensions, got dimensions={dimensions}.")
        self.tries = whole("tries", tries, 1)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-1.0, 1.0, (1,))
        self.action_space = spaces.Box(-1.0, 1.0, (dimensions,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        self.goal = int(self.np_random.integers(len(self.goals)))
        self.actions: list[NDArray[Any]] = []
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        self.actions.append(np.clip(np.asarray(action, np.float64), -1.0, 1.0))
        found = bool(np.linalg.norm(self.actions[-1] - self.goals[self.goal]) < self.radius)
        over = found or len(self.actions) == self.tries
        return np.zeros(1, np.float32), float(found), over, False, dict(is_success=found, goal=self.goal)

    def render(self) -> NDArray[np.uint8]:
        from flowrl.envs.picture import pixels, square_axes

        axes = square_axes(1.0)
        for index, goal in enumerate(self.goals):
            angle = np.linspace(0, 2 * np.pi, 65)
            x, y = goal[:, None] + self.radius * np.stack((np.cos(angle), np.sin(angle)))
            axes.fill(x, y, facecolor="#d95f02" if index == self.goal else "none", edgecolor="#d95f02")
        if self.actions:
            axes.scatter(*np.transpose(self.actions), color="#08519c", marker="x")
        return pixels(axes)

    def optimum(self) -> float:
        """
        The best success of a policy without memory.

        :return: 1 - (1 - 1/n)^T; with memory of its tries an agent would reach min(T / n, 1)
        """
        return self.success(np.full(len(self.goals), 1 / len(self.goals)))

    def success(self, hits: ArrayLike) -> float:
        """
        The success of a policy.

        :param hits: its probability of each goal's disc, shape ``(n,)``
        :return: 1/n sum_k (1 - (1 - p_k)^T)
        """
        return float((1 - (1 - np.asarray(hits, np.float64)) ** self.tries).mean())

    def hits(self, density: Callable[[NDArray[np.float64]], ArrayLike]) -> NDArray[np.float64]:
        """
        A density's probability of each goal's disc, by quadrature, for :meth:`success`; of a disc that sticks out of
        the box, that of the part inside.

        :param density: from actions in the box, shape ``(m, 2)``, to their densities, ``(m,)``
        :return: shape ``(n,)``
        :raises ValueError: for other than two dimensions
        """
        self._check_plane("hits")
        nodes, weights = np.polynomial.legendre.leggauss(STRIPS)
        # Between the axes: of a disc whose centre is on an edge of the box, nodes on the edge would count in full.
        radii, angles = self.radius * (nodes + 1) / 2, (np.arange(2 * STRIPS) + 0.5) * np.pi / STRIPS
        disc = radii[:, None, None] * np.stack((np.cos(angles), np.sin(angles)), -1)  # (radii, angles, 2)
        area = np.broadcast_to((weights * radii * self.radius / 2)[:, None] * np.pi / STRIPS, disc.shape[:2]).ravel()
        hits = []
        for goal in self.goals:
            actions = goal + disc.reshape(-1, 2)
            inside = (np.abs(actions) <= 1).all(1)
            hits.append(area[inside] @ np.asarray(density(actions[inside])))
        return np.array(hits)

    def gaussian_optimum(self) -> float:
        """
        The best success of a = tanh(u), u a diagonal Gaussian, by search over means, the goals among them, and
        deviations.

        :return: the success
        :raises ValueError: for other than two dimensions
        """
        self._check_plane("gaussian_optimum")
        mean, std = squashed_normals(np.asarray(self.goals), min(0.02, self.radius / 10))
        edges = self.radius * np.linspace(-1, 1, STRIPS + 1)
        half = np.sqrt(self.radius**2 - ((edges[1:] + edges[:-1]) / 2) ** 2)  # of the strips' heights
        limit = 1 - 1e-12  # of the box, where a disc sticks out of it
        misses = np.zeros((len(mean), len(mean)))
        for x, y in self.goals:
            across, up, down = (np.clip(ends, -limit, limit)[:, None] for ends in (x + edges, y + half, y - half))
            widths = squashed_normal_probability(across[:-1], across[1:], mean, std)  # (strips, normals of x)
            heights = squashed_normal_probability(down, up, mean, std)  # (strips, normals of y)
            misses += (1 - widths.T @ heights) ** self.tries
        return float(1 - misses.min() / len(self.goals))

    def _check_plane(self, method: str) -> None:
        if self.dimensions != 2:
            raise ValueError(f"{method} integrates over 2 dimensions, this environment has {self.dimensions}.")


def _pad(goals: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    """The same goals in more dimensions."""
    plane = np.asarray(goals)
    return np.pad(plane, ((0, 0), (0, dimensions - plane.shape[1])))
