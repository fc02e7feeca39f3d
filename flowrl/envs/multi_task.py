"""Several tasks for one policy: which of them it is stands in the observation, and a task is drawn with each episode.

Two families come with it: one goal of MultiGoal each, and HalfCheetah at one speed each (as in Finn et al. 2017,
"MAML", section 5.3: the reward is minus the distance to the wanted speed). Any environments of the same spaces are a
family.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from flowrl.options import between, points

Family = Callable[[Any, str | None], dict[str, gym.Env]]


class TargetSpeed(gym.Wrapper):
    """
    HalfCheetah at a given speed: the reward is -\\|v - speed\\| and what the environment charges for control.

    ``info["is_success"]`` says whether the speed of the step was within 10 % of it, or within 0.1 m/s.

    :param env: one whose ``info`` holds ``x_velocity`` and ``reward_ctrl``
    :param speed: the wanted one, in m/s; negative: backwards
    """

    def __init__(self, env: gym.Env, speed: float) -> None:
        super().__init__(env)
        self.speed = between("speed", speed, -np.inf)

    def step(self, action: NDArray[Any]) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        miss = abs(info["x_velocity"] - self.speed)
        success = bool(miss <= max(0.1, 0.1 * abs(self.speed)))
        return observation, float(info["reward_ctrl"] - miss), terminated, truncated, info | dict(is_success=success)


def goals_of_multi_goal(goals: Any, render_mode: str | None) -> dict[str, gym.Env]:
    """
    MultiGoal with one goal each.

    :param goals: shape ``(n, 2)``; None: its own four
    :param render_mode: of each
    :return: environments by the goal's coordinates
    """
    from flowrl.envs.multi_goal import BOUND

    goals = ((5, 0), (-5, 0), (0, 5), (0, -5)) if goals is None else points("variants", goals, 2, BOUND)
    name = "flowrl/MultiGoal-v0"
    return {f"goal_{x:g}_{y:g}": gym.make(name, goals=[(x, y)], render_mode=render_mode) for x, y in goals}


def speeds_of_half_cheetah(speeds: Any, render_mode: str | None) -> dict[str, gym.Env]:
    """
    HalfCheetah at one speed each.

    :param speeds: in m/s; None: 1, 2, 4 and -1
    :param render_mode: of each
    :return: environments by speed
    """
    speeds = (1.0, 2.0, 4.0, -1.0) if speeds is None else speeds
    if not isinstance(speeds, Sequence):
        raise ValueError(f"variants must be a sequence of speeds in m/s, got {speeds!r}.")
    makers = {f"speed_{between('a speed', speed, -np.inf):g}": speed for speed in speeds}
    return {
        name: TargetSpeed(gym.make("HalfCheetah-v5", render_mode=render_mode), speed) for name, speed in makers.items()
    }


FAMILIES: dict[str, Family] = {"multi-goal": goals_of_multi_goal, "half-cheetah": speeds_of_half_cheetah}


class MultiTask(gym.Env):
    """
    One of several tasks in each episode, named by the observation.

    Tasks are drawn without replacement: n episodes in a row, after a seeded reset, are of n tasks. ``reset`` takes
    ``options={"task": name}`` for a certain one. ``info["task"]`` is the name, beside what its environment tells.

    :param family: ``"multi-goal"``, ``"half-cheetah"``, or environments by name, of the same spaces
    :param variants: of a family by name: its goals, or its speeds; None: four of them
    :param observation: ``"flat"``: the task's one-hot code behind the observation, which must be a vector;
        ``"dict"``: ``observation`` and ``task``, a number that SB3's ``MultiInputPolicy`` turns into that code
    :param render_mode: of every environment of a family by name
    :raises ValueError: for an unknown family, for no tasks, for two of one name, and for tasks of different spaces
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        family: str | Mapping[str, gym.Env] = "multi-goal",
        variants: Any = None,
        observation: str = "flat",
        render_mode: str | None = None,
    ) -> None:
        if isinstance(family, str) and family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, or environments by name, got {family!r}.")
        if not isinstance(family, str) and variants is not None:
            raise ValueError("variants are of a family by name: leave them out, or name one.")
        self.render_mode = render_mode
        self.tasks: dict[str, gym.Env] = (
            FAMILIES[family](variants, render_mode) if isinstance(family, str) else dict(family)
        )
        if variants is not None and len(self.tasks) < len(variants):
            raise ValueError(
                f"variants must differ in the names of their tasks, {', '.join(self.tasks)}: got {variants!r}."
            )
        self.observation_space, self.action_space = self._spaces(observation)
        self.flat = observation == "flat"
        self.deck: list[str] = []

    def _spaces(self, observation: str) -> tuple[spaces.Space, spaces.Space]:
        if not self.tasks:
            raise ValueError("MultiTask needs at least one task.")
        first = next(iter(self.tasks.values()))
        own, action = first.observation_space, first.action_space
        for name, env in self.tasks.items():
            if (env.observation_space, env.action_space) != (own, action):
                raise ValueError(f"The task {name!r} has other spaces than the first: they must be the same.")
        n = len(self.tasks)
        if observation == "dict":
            return spaces.Dict(observation=own, task=spaces.Discrete(n)), action
        if observation != "flat":
            raise ValueError(f"observation must be 'flat' or 'dict', got {observation!r}.")
        if not isinstance(own, spaces.Box) or len(own.shape) != 1:
            raise ValueError(f"observation='flat' needs vectors, got {own}: take 'dict'.")
        low, high = np.append(own.low, np.zeros(n)), np.append(own.high, np.ones(n))
        return spaces.Box(low.astype(own.dtype), high.astype(own.dtype), dtype=own.dtype.type), action

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.deck = []
        wanted = (options or {}).get("task")
        if wanted is not None and wanted not in self.tasks:
            raise ValueError(f"options: there is no task {wanted!r}, only {', '.join(self.tasks)}.")
        if wanted is None and not self.deck:
            self.deck = [str(name) for name in self.np_random.permutation(list(self.tasks))]
        self.task = wanted or self.deck.pop()
        observation, info = self.tasks[self.task].reset(seed=int(self.np_random.integers(2**31)))
        return self._observe(observation), info | dict(task=self.task)

    def step(self, action: NDArray[Any]) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.tasks[self.task].step(action)
        return self._observe(observation), reward, terminated, truncated, info | dict(task=self.task)

    def _observe(self, observation: Any) -> Any:
        index = list(self.tasks).index(self.task)
        if not self.flat:
            return dict(observation=observation, task=np.int64(index))
        return np.append(observation, np.eye(len(self.tasks))[index]).astype(self.observation_space.dtype)

    def render(self) -> Any:
        return self.tasks[self.task].render()

    def close(self) -> None:
        for env in self.tasks.values():
            env.close()
