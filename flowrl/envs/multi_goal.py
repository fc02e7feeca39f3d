"""A walk in the plane to any of several goals: soft Q-learning's first task (Haarnoja et al. 2017, section 5.1).

With goals at one distance from the start there are as many best paths as goals, and a maximum-entropy policy takes each
of them as often: the histogram of goals reached has up to log n nats, 1.386 for four.

The best path is straight. Within the sector where goal g is the nearest, a step costs 30 |a|^2 + |s - g|^2; a path that
is turned about g, step by step, until it lies on the line from the start to g keeps its distances to g and shortens its
steps (on the best path none meets the limit of 1). There the distance to g is the whole state:
:meth:`MultiGoal.optimum` is found by dynamic programming.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from flowrl.options import between, fraction, points

BOUND = 7.0  # the state lies in [-BOUND, BOUND]^2
START = 0.1  # standard deviation of the first state, around the origin
REACH = 1.0  # a goal is reached within this distance
HORIZON = 30  # steps, by registration
PLACES = 500  # on the way to a goal, for dynamic programming


class MultiGoal(gym.Env):
    """
    Walk from about (0, 0) to a goal: s' = s + a, a in [-1, 1]^2, s in [-7, 7]^2, cut off at the walls.

    The reward is -``action_cost`` |a|^2 - min_g |s' - g|^2, and ``goal_reward`` more for coming within 1 of a goal,
    where the episode ends. Registered with at most 30 steps. ``info`` holds ``is_success``, and ``goal``, the index of
    the goal reached, -1 for none.

    :param goals: where they are; by default (5, 0), (-5, 0), (0, 5), (0, -5)
    :param goal_reward: for reaching one
    :param action_cost: of a step's squared length
    :param render_mode: ``"rgb_array"``
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(
        self,
        goals: ArrayLike = ((5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, -5.0)),
        goal_reward: float = 10.0,
        action_cost: float = 30.0,
        render_mode: str | None = None,
    ) -> None:
        self.goals = points("goals", goals, 2, BOUND)
        if np.linalg.norm(self.goals, axis=1).min() <= REACH:
            raise ValueError(f"goals must be farther than {REACH:g} from the start at the origin, got {goals!r}.")
        self.goal_reward = between("goal_reward", goal_reward, -np.inf)
        self.action_cost = between("action_cost", action_cost, 0)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-BOUND, BOUND, (2,))
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        self.path = [self.np_random.normal(0.0, START, 2)]
        return self.path[-1].astype(np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        move = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        position = np.clip(self.path[-1] + move, -BOUND, BOUND)
        self.path.append(position)
        distances = np.linalg.norm(position - self.goals, axis=1)
        reached = bool(distances.min() < REACH)
        reward = -self.action_cost * (move @ move) - distances.min() ** 2 + self.goal_reward * reached
        info = dict(is_success=reached, goal=int(distances.argmin()) if reached else -1)
        return position.astype(np.float32), float(reward), reached, False, info

    def render(self) -> NDArray[np.uint8]:
        from flowrl.envs.picture import pixels, square_axes

        axes = square_axes(BOUND)
        x, y = np.meshgrid(*[np.linspace(-BOUND, BOUND, 101)] * 2)
        nearest = np.min([(x - goal[0]) ** 2 + (y - goal[1]) ** 2 for goal in self.goals], axis=0)
        axes.contour(x, y, nearest, levels=10, cmap="Blues_r", linewidths=0.7)
        axes.scatter(self.goals[:, 0], self.goals[:, 1], color="#d95f02", s=60)
        axes.plot(*np.transpose(self.path), color="#08519c", marker=".")
        return pixels(axes)

    def optimum(self, gamma: float = 1.0) -> NDArray[np.float64]:
        """
        The best return of a straight walk from the origin to each goal, within 30 steps. One that lies behind another
        goal, where an episode would end, is walked up to and not reached.

        With equally distant goals, as by default, the largest of them is the most that any policy reaches. States are
        500 places on the way, so that the value is short of the exact one: by less than 0.01 with the default goals and
        cost, by more where steps cost more or goals are farther (0.17 at ``action_cost=1000``).

        :param gamma: discount
        :return: shape ``(n,)``; the end, within 1 of the goal, is counted as reached at a distance of 1
        """
        fraction("gamma", gamma)
        return np.array([self._walk(goal, gamma) for goal in self.goals])

    def _walk(self, goal: NDArray[np.float64], gamma: float) -> float:
        length = np.linalg.norm(goal)
        way = goal / length
        travelled = np.linspace(0.0, length - REACH, PLACES)
        distances = np.linalg.norm(travelled[:, None, None] * way - self.goals, axis=-1)
        ended = ((distances < REACH) & (self.goals != goal).any(1)).any(1)  # at another goal
        move = travelled - travelled[:, None]  # from a row's place to a column's
        reward = -self.action_cost * move**2 - distances.min(1) ** 2
        reward[:, -1] += self.goal_reward
        reward[:, ended] = -np.inf
        reward[np.abs(move) * np.abs(way).max() > 1 + 1e-9] = -np.inf
        value = np.full(PLACES, 0.0)
        for _ in range(HORIZON):
            value = (reward + gamma * np.append(value[:-1], 0.0)).max(1)
        return float(value[0])
