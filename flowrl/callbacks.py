"""Callbacks for any Stable-Baselines3 model: its distribution as it learns, and each task's returns, in TensorBoard."""

import inspect
import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, HParam
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from flowrl.algorithms.gradients import actor_and_critic, gradient_norm
from flowrl.algorithms.offline import take
from flowrl.options import whole
from flowrl.policies.density import diagnose, has_diagnostics
from flowrl.policies.vec_normalize import is_right_before

# The formats of SB3's logger that can hold neither figures nor hyperparameters.
TEXT_FORMATS = ("stdout", "log", "json", "csv")
# Its tables cut names off, and end training where two are then the same.
TABLES, TABLE_WIDTH = ("stdout", "log"), 36
# The arguments of algorithms that may be functions of the training that remains.
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "ent_coef")
# What the HParams tab compares runs by; the values come from the scalars of the same name.
METRICS = {"eval/mean_reward": 0.0, "rollout/ep_rew_mean": 0.0}


class FlowLogger(BaseCallback):
    """
    Log the policy's distribution, the gradients and the speed; and the hyperparameters, once.

    - ``flow/entropy``, ``flow/saturation`` (the fraction of action components beyond 0.99 of
      the box), ``flow/log_det_min``, ``flow/log_det_max``: over the states visited last; of a flow with noise layers
      ``flow/entropy_bound`` in the entropy's place, and ``flow/noise_std``;
    - ``train/grad_norm_actor``, ``train/grad_norm_critic``: of the gradients that the optimiser gets (PPO clips them
      before, so that they end at its ``max_grad_norm``);
    - ``time/steps_per_second``: since the last measurement.

    It works with SB3's Gaussian policies too, which have no log-det. It draws none of training's random numbers: a run
    with it is the run without it.

    :param every: steps between two measurements; 0: none
    :param n_states: over how many of the last states to average, those of all environments together
    """

    kept = ("recent",)
    """What a checkpoint has to hold so that a resumed run logs the same."""

    def __init__(self, every: int = 1_000, n_states: int = 256) -> None:
        super().__init__()
        self.every, self.n_states = every, whole("n_states", n_states, 1)
        self.recent: deque[Any] = deque(maxlen=n_states)  # batches, of a state or more each
        self.hooks: list[RemovableHandle] = []

    def _on_training_start(self) -> None:
        self.next_step = next_multiple(self.num_timesteps, self.every)
        self.last_time, self.last_step = time.perf_counter(), self.num_timesteps
        if _sees_another_space(self):
            self.recent.clear()
        self.logger.record("hparams", HParam(hyperparameters(self.model), METRICS), exclude=TEXT_FORMATS)
        self._remove_hooks()
        self.optimizers_to_measure: set[Optimizer] = set()
        if hasattr(self.model, "gradient_norms"):  # flowrl's algorithms: a hook would keep the update out of C
            return
        for optimizer, parameters in parameter_groups(self.model):
            hook = partial(self._measure_gradients, parameters=parameters)
            self.hooks.append(optimizer.register_step_pre_hook(hook))

    def _on_training_end(self) -> None:
        self._remove_hooks()

    def _on_rollout_start(self) -> None:
        self.rollout_start = self.num_timesteps

    def _on_step(self) -> bool:
        if has_diagnostics(self.model.policy):  # some of the others have no steps that a callback sees
            self.recent.append(_kept(self.locals["new_obs"]))
        return True

    def _on_rollout_end(self) -> None:
        # In SAC a rollout is a single step: everything below the first test happens rarely.
        if self.num_timesteps >= self.next_step:
            self.next_step = next_multiple(self.num_timesteps, self.every)
            self._log_speed()
            self._log_distribution()
            self._log_gradients()
        rollout_length = self.num_timesteps - self.rollout_start
        # The last update before the next measurement
        if self.hooks and self.num_timesteps + rollout_length >= self.next_step:
            self.optimizers_to_measure = {optimizer for optimizer, _ in parameter_groups(self.model)}

    def _log_speed(self) -> None:
        now = time.perf_counter()
        self.logger.record("time/steps_per_second", (self.num_timesteps - self.last_step) / (now - self.last_time))
        self.last_time, self.last_step = now, self.num_timesteps

    def _log_distribution(self) -> None:
        policy = self.model.policy
        if not has_diagnostics(policy):
            return
        obs = policy.obs_to_tensor(take(_concatenate(self.recent), slice(-self.n_states, None)))[0]
        with isolated_random_numbers(self.model.device):
            for name, value in diagnose(policy, obs).items():
                self.logger.record(f"flow/{name}", value)

    def _log_gradients(self) -> None:
        """Those of the last update, where the algorithm keeps them."""
        if hasattr(self.model, "gradient_norms") and getattr(self.model, "_n_updates", 0) > 0:
            for name, norm in self.model.gradient_norms().items():
                self.logger.record(f"train/grad_norm_{name}", norm)

    def _measure_gradients(
        self, optimizer: Optimizer, args: Any, kwargs: Any, parameters: dict[str, list[Tensor]]
    ) -> None:
        """Runs before an optimiser's step: the one moment when SAC's critic has its own gradients and no others."""
        if optimizer not in self.optimizers_to_measure:
            return
        self.optimizers_to_measure.remove(optimizer)
        for name, group in parameters.items():
            self.logger.record(f"train/grad_norm_{name}", gradient_norm(group))

    def _remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()


class DensityFigure(BaseCallback):
    """
    Record a picture of the policy's action density at a few states, always the same ones (TensorBoard's Images tab);
    beside it the return's distribution, where a critic gives one.

    :param every: steps between two pictures; 0: none
    :param n_states: at how many of the states that training visited before the first picture; a training with other
        observations, where the callback is used again, has states of its own
    """

    kept = ("states", "visited")

    def __init__(self, every: int = 10_000, n_states: int = 3) -> None:
        super().__init__()
        self.every, self.n_states = every, whole("n_states", n_states, 1)
        self.states: Any = None
        self.visited: deque[Any] = deque(maxlen=1_000)

    def _on_training_start(self) -> None:
        self.next_step = next_multiple(self.num_timesteps, self.every)
        if _sees_another_space(self):
            self.states = None
            self.visited.clear()

    def _on_step(self) -> bool:
        if self.every == 0 or not has_diagnostics(self.model.policy):
            return True
        normalization = self._normalization()
        if self.states is None:
            self.visited.append(_kept(self._observed(normalization)))
        if self.num_timesteps >= self.next_step:
            # Here, so that `import flowrl` does not import matplotlib, which takes longer than all of flowrl
            from flowrl.plots.policies import density_figure
            from flowrl.plots.returns import return_figure

            self.next_step = next_multiple(self.num_timesteps, self.every)
            if self.states is None:
                self.states = _evenly_spaced(_concatenate(self.visited), self.n_states)
                self.visited.clear()
            # What the policy sees of the same states changes with the running statistics.
            states = self.states if normalization is None else normalization.normalize_obs(self.states)
            with isolated_random_numbers(self.model.device):
                figure = density_figure(self.model.policy, states)
            self.logger.record("flow/action_density", Figure(figure, close=True), exclude=TEXT_FORMATS)
            if hasattr(self.model, "returns"):
                figure = return_figure(self.model, states)
                self.logger.record("flow/return_distribution", Figure(figure, close=True), exclude=TEXT_FORMATS)
        return True

    def _normalization(self) -> VecNormalize | None:
        """What normalises observations right before the policy, and can again when its statistics have changed."""
        normalization = self.model.get_vec_normalize_env()
        if normalization is None or not normalization.norm_obs or not is_right_before(normalization, self.model):
            return None
        return normalization

    def _observed(self, normalization: VecNormalize | None) -> Any:
        """What the policy sees next, before it is normalised."""
        if normalization is None:
            return self.locals["new_obs"]
        if "infos" in self.locals:
            return normalization.get_original_obs()
        return normalization.unnormalize_obs(self.locals["new_obs"])  # of a data set, not of the environment


class TaskReturns(BaseCallback):
    """
    Log each task's mean return over its last episodes, where ``info["task"]`` names tasks (``flowrl/MultiTask-v0``).

    ``tasks/NAME/return``, and ``tasks/NAME/success`` where ``info["is_success"]`` says it; without tasks, nothing.
    Names that are too long for SB3's tables on the screen are not in these.

    :param window: over how many of a task's last episodes
    """

    kept = ("episodes",)

    def __init__(self, window: int = 25) -> None:
        super().__init__()
        whole("window", window, 1)
        self.episodes: dict[str, deque[dict[str, float]]] = defaultdict(partial(deque, maxlen=window))

    def _on_step(self) -> bool:
        for info in self.locals.get("infos", ()):  # who learns from a data set has none
            if "task" in info and "episode" in info:  # Monitor's, where an episode has ended
                episodes = self.episodes[str(info["task"])]
                ended = dict(success=float(info["is_success"])) if "is_success" in info else {}
                episodes.append(dict(ended, **{"return": float(info["episode"]["r"])}))
                for name in episodes[-1]:
                    mean = float(np.mean([episode[name] for episode in episodes if name in episode]))
                    of_task = f"{info['task']}/{name}"
                    in_table = len("   " + of_task) <= TABLE_WIDTH
                    self.logger.record(f"tasks/{of_task}", mean, exclude=() if in_table else TABLES)
        return True


def parameter_groups(model: BaseAlgorithm) -> list[tuple[Optimizer, dict[str, list[Tensor]]]]:
    """
    Which parameters an algorithm's optimisers move, the actor's and the critic's apart.

    :param model: SAC or one of its kin (two optimisers), PPO or one of its kin (one)
    :return: each optimiser with its parameters by name; nothing of an algorithm without one (ARS)
    """
    groups: list[tuple[Optimizer, dict[str, list[Tensor]]]] = []
    for name in ("actor", "critic"):
        optimizer = getattr(getattr(model, name, None), "optimizer", None)
        if optimizer is not None:
            groups.append((optimizer, {name: [p for group in optimizer.param_groups for p in group["params"]]}))
    if groups or not hasattr(model.policy, "optimizer"):
        return groups
    return [(model.policy.optimizer, actor_and_critic(model.policy))]


def hyperparameters(model: BaseAlgorithm) -> dict[str, bool | str | float | None]:
    """
    The constructor arguments of a model that can be shown in a table.

    :param model: the model
    :return: name to value; the policy's own arguments by their names too, and a schedule as what it goes from and to
    """
    values: dict[str, Any] = dict(algorithm=type(model).__name__, policy=type(model.policy).__name__)
    # Of every class that it is made of: flowrl's algorithms pass most arguments on to SB3's.
    constructors = [vars(cls)["__init__"] for cls in type(model).__mro__ if "__init__" in vars(cls)]
    arguments = [name for constructor in constructors for name in inspect.signature(constructor).parameters]
    values |= {name: getattr(model, name) for name in arguments if name not in values and hasattr(model, name)}
    values |= values.pop("policy_kwargs", None) or {}
    values |= {name: _first_and_last(values[name]) for name in SCHEDULES if callable(values.get(name))}
    return {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in values.items()
        if isinstance(value, (bool, int, float, str, list, dict, tuple))
    }


def _first_and_last(schedule: Any) -> float | str:
    """``"0.001 to 1e-05"``, or the one value that a schedule has."""
    first, last = float(schedule(1.0)), float(schedule(0.0))
    return first if first == last else f"{first:g} to {last:g}"


@contextmanager
def isolated_random_numbers(device: torch.device) -> Iterator[None]:
    """
    Leave torch's random numbers as they were, whatever is drawn inside.

    :param device: the model's device
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def next_multiple(step: int, every: int) -> float:
    """
    When something that happens every so many steps happens next.

    :param step: the present step
    :param every: the interval; 0: never
    :return: the first multiple of the interval after the step; infinity where there is none
    """
    return (step // every + 1) * every if every > 0 else math.inf


def _sees_another_space(callback: Any) -> bool:
    """Whether a callback, as a training starts, has been in one with other observations."""
    before, callback.space = getattr(callback, "space", None), callback.model.observation_space
    return before is not None and before != callback.space


def _kept(observations: Any) -> Any:
    """What can be kept of a step: SB3's buffer puts entries of another shape into the dictionary that it is given."""
    return dict(observations) if isinstance(observations, dict) else observations


def _concatenate(observations: Iterable[Any]) -> Any:
    """Batches of observations as one batch."""
    batches: Sequence[Any] = list(observations)
    if isinstance(batches[0], dict):
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return np.concatenate(batches)


def _evenly_spaced(observations: Any, n: int) -> Any:
    """A few observations of a batch, from its first to its last."""
    if isinstance(observations, dict):
        return {key: _evenly_spaced(value, n) for key, value in observations.items()}
    return observations[np.linspace(0, len(observations) - 1, n).round().astype(int)]
