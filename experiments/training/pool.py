"""EnvPool's environments, which step side by side in threads of C++."""

import importlib.util
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from experiments.training.errors import UsageError

INT32 = 2**31 - 1
"""Where EnvPool's seeds end, and SB3's do not."""


class Pool(VecEnv):
    """
    An EnvPool as Stable-Baselines3 takes it.

    An environment whose episode has ended starts the next one in the same step, as in SB3's own; EnvPool itself would
    ignore an action there. One that ends in the very step that its time is up counts as out of time: EnvPool says no
    more. ``info`` holds only what SB3's own and its `Monitor` say at an episode's end: to take the rest apart would
    cost more than the step. There are as many threads as torch has.

    :param id: of the environment, which EnvPool must have under that name
    :param n_envs: how many of them
    :param kwargs: of the environment, as EnvPool calls them
    :raises UsageError: without EnvPool, for an environment that it does not have, or arguments that it does not take
    """

    def __init__(self, id: str, n_envs: int, kwargs: dict[str, Any]) -> None:
        if importlib.util.find_spec("envpool") is None:
            raise UsageError("--vec-env envpool needs the 'envpool' extra: pip install -e '.[envpool]'")
        import envpool

        id = id.rpartition(":")[2]
        if id not in envpool.list_all_envs():
            raise UsageError(f"--vec-env envpool: EnvPool has no {id}; without it, --vec-env subproc")
        self.id, self.kwargs = id, kwargs
        try:
            self.pool = self._make(n_envs)
        except TypeError as error:
            raise UsageError(f"--env-set: EnvPool's {id}: {error}") from error
        actions, observations = self.pool.action_space, self.pool.observation_space
        for name, space in (("actions", actions), ("observations", observations)):
            if not isinstance(space, gym.spaces.Box):
                kind = type(space).__name__
                raise UsageError(f"--vec-env envpool: {id} has {name} in a {kind}, and here only a Box is understood")
        box = spaces.Box(actions.low.astype(np.float32), actions.high.astype(np.float32))
        super().__init__(n_envs, observations, box)
        self.returns, self.lengths, self.started = np.zeros(n_envs), np.zeros(n_envs, int), time.time()

    def _make(self, n_envs: int, seeds: list[int] | None = None) -> Any:
        import envpool

        options = self.kwargs | dict(num_envs=n_envs, num_threads=min(n_envs, torch.get_num_threads()))
        if seeds is not None:
            options["seed"] = [seed % INT32 for seed in seeds]
        return envpool.make(self.id, env_type="gymnasium", **options)

    def reset(self) -> VecEnvObs:
        seeds = [seed for seed in self._seeds if seed is not None]
        if len(seeds) == self.num_envs:  # a pool takes its seeds when it is made
            self.pool = self._make(self.num_envs, seeds)
        self._reset_seeds()
        self._reset_options()
        self.returns[:], self.lengths[:] = 0, 0
        observations, _ = self.pool.reset()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, terminated, truncated, _ = self.pool.step(
            self.actions.astype(self.pool.action_space.dtype)
        )
        self.returns += rewards
        self.lengths += 1
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        rows = np.flatnonzero(ended)
        if len(rows):
            last = observations[rows]
            observations = observations.copy()
            observations[rows], _ = self.pool.reset(rows.astype(np.int32))
            now = round(time.time() - self.started, 6)
            for row, observation in zip(rows, last):
                infos[row] = {
                    "terminal_observation": observation,
                    "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                    "episode": {"r": round(float(self.returns[row]), 6), "l": int(self.lengths[row]), "t": now},
                }
            self.returns[rows], self.lengths[rows] = 0, 0
        return observations, rewards, ended, infos

    def close(self) -> None:
        self.pool = None  # its threads end with it

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        value = None if attr_name == "render_mode" else getattr(self.pool, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise AttributeError(f"EnvPool's environments are not Python's: {attr_name} cannot be set")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"EnvPool's environments are not Python's: they have no method {method_name}")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
