"""Learning from a fixed data set: transitions in the replay buffer, and `learn` without a step in the environment."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.her import HerReplayBuffer

from flowrl.policies.action_box import EDGE, half_width, inside_box

LOG_EVERY = 1_000  # steps
ROWS = 50_000  # counted in at once

Observations = NDArray[Any] | dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Transitions:
    """
    What was seen, done, earned and seen next, one row a step.

    :param observations: as the environment gives them, not normalised; a dictionary of such arrays where it gives
        dictionaries
    :param actions: in the environment's units, shape ``(steps, *action_shape)``
    :param rewards: shape ``(steps,)``
    :param next_observations: as the observations
    :param terminations: whether the episode ended there, shape ``(steps,)``, booleans or zeros and ones
    :param truncations: whether it was cut off there, or what follows is of another episode, likewise
    """

    observations: Observations
    actions: NDArray[Any]
    rewards: NDArray[Any]
    next_observations: Observations
    terminations: NDArray[Any]
    truncations: NDArray[Any]

    def __len__(self) -> int:
        return len(self.actions)


class OfflineMixin:
    """Gives an off-policy algorithm of SB3 (2.9) a fixed data set to learn from."""

    is_offline = False

    def learn_from(self, transitions: Transitions) -> Any:
        """
        Fill the replay buffer; from then on every step of `learn` is an update, and nothing is collected. Callbacks
        find ``new_obs``, ``rewards`` (zero) and ``dones`` (False) of one step in their locals, and no ``infos``, since
        there are none.

        :param transitions: the data set (images as the environment or as the algorithm sees them). Where the
            environment is a `VecNormalize`, its statistics of observations become those of the data set, once and for
            all, and rewards are taken as they are; so do those of a new policy that normalises by itself
        :return: the model itself
        :raises ValueError: for data of other shapes than the environment's, actions beyond its box, rewards that are
            not finite, and ends that are not booleans; the model is then as before
        """
        model: Any = self
        seen = (transitions.observations, transitions.next_observations)
        first, following = (channels_first(observations, model.observation_space) for observations in seen)
        transitions = replace(transitions, observations=first, next_observations=following)
        check_transitions(transitions, model)
        buffer = model.replay_buffer_class(
            len(transitions),
            model.observation_space,
            model.action_space,
            model.device,
            n_envs=1,
            **model.replay_buffer_kwargs,
        )
        actions = model.policy.scale_action(inside_box(transitions.actions, model.action_space))
        terminations = np.asarray(transitions.terminations, bool)
        truncations = np.asarray(transitions.truncations, bool)
        for i in range(len(transitions)):
            row = slice(i, i + 1)
            buffer.add(
                take(transitions.observations, row),
                take(transitions.next_observations, row),
                actions[row],
                transitions.rewards[row],
                terminations[row] | truncations[row],
                [{"TimeLimit.truncated": bool(truncations[i] and not terminations[i])}],
            )
        fit_normalizations(model, transitions.observations)
        self.is_offline = True
        model.buffer_size, model.replay_buffer = len(transitions), buffer
        model.learning_starts, model.gradient_steps = 0, 1
        return self

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """
        As SB3's, or one step without the environment, in which callbacks see a row of the data set as what is new.

        :raises ValueError: where a model has been loaded, and its data set is not there
        """
        model: Any = self
        if not self.is_offline:
            return super().collect_rollouts(env, callback, *args, **kwargs)  # type: ignore[misc]
        buffer = model.replay_buffer
        if buffer.size() == 0:
            raise ValueError("The data set is not saved with the model: call learn_from(transitions) again.")
        row = take(buffer.observations, model.num_timesteps % buffer.size())
        return step_without_environment(model, callback, row)


def check_transitions(transitions: Transitions, model: Any) -> None:
    """
    :param transitions: the data set
    :param model: the algorithm that shall learn from it
    :raises ValueError: where an observation or action has another shape than the environment's, or there is not one
        reward and one boolean of each end a step; for NaN, actions beyond the environment's box, no transitions, or a
        replay buffer that relabels goals
    """
    if issubclass(model.replay_buffer_class, HerReplayBuffer):
        raise ValueError("HerReplayBuffer relabels goals of its own environment: learn from a data set without it.")
    names = ("observations", "next_observations")
    check_steps(model, transitions.actions, **{name: getattr(transitions, name) for name in names})
    for name in ("rewards", "terminations", "truncations"):
        if (shape := np.shape(getattr(transitions, name))) != (len(transitions),):
            raise ValueError(f"The data set's {name} have shape {shape}: expected {(len(transitions),)}.")
    for name in ("actions", "rewards", *names):
        data = getattr(transitions, name)
        for part in data.values() if isinstance(data, dict) else (data,):
            _refuse_unless(np.isfinite(part), part, name, "finite")
    check_actions(model, transitions.actions)
    for name in ("terminations", "truncations"):
        ends = np.asarray(getattr(transitions, name))
        _refuse_unless((ends == 0) | (ends == 1), ends, name, "booleans, or zeros and ones")


def _refuse_unless(holds: NDArray[np.bool_], data: NDArray[Any], name: str, expected: str) -> None:
    if not holds.all():
        row = np.argwhere(~holds)[0][0]
        raise ValueError(f"The data set's {name} must be {expected}, got {data[row]} in row {row}.")


def check_steps(model: Any, actions: NDArray[Any], **observations: Observations) -> None:
    """
    :param model: the algorithm that shall learn from them
    :param actions: of a data set, one row a step
    :param observations: its observations by name (images as the algorithm sees them), one row a step
    :raises ValueError: where one has another shape than the environment's, or there are none
    """
    if not len(actions):
        raise ValueError("The data set is empty: there is nothing to learn from.")
    space = model.observation_space
    pairs = [("actions", actions, model.action_space)]
    for name, data in observations.items():
        if isinstance(space, spaces.Dict) != isinstance(data, dict) or (
            isinstance(data, dict) and set(data) != set(space)
        ):
            raise ValueError(f"The data set's {name} must be like the environment's, {space}.")
        pairs += (
            [(f"{name}[{key!r}]", data[key], space[key]) for key in data]
            if isinstance(data, dict)
            else [(name, data, space)]
        )
    for name, data, one in pairs:
        if data.shape != (len(actions), *one.shape):
            raise ValueError(
                f"The data set's {name} have shape {data.shape}, the environment's are {one}: expected "
                f"{(len(actions), *one.shape)}."
            )


def check_actions(model: Any, actions: NDArray[Any]) -> None:
    """
    :param model: the algorithm that shall learn from them
    :param actions: of a data set, one row a step
    :raises ValueError: where one lies beyond the environment's box, or is NaN
    """
    box = model.action_space
    largest = np.maximum(abs(box.low), abs(box.high)).astype(np.result_type(actions.dtype, np.float32))
    margin = np.fmax(EDGE * half_width(box), np.spacing(largest))  # of rounding
    if not ((box.low - margin <= actions) & (actions <= box.high + margin)).all():  # NaN is neither
        raise ValueError(
            f"The data set's actions reach from {actions.min()} to {actions.max()}, the environment's are {box}: "
            "give them in its units, or clip them to its low and high."
        )


def step_without_environment(model: Any, callback: BaseCallback, observation: Any) -> RolloutReturn:
    """
    What SB3's `OffPolicyAlgorithm.collect_rollouts` (2.9) does beside stepping in the environment.

    :param model: the algorithm
    :param callback: of its training
    :param observation: one that callbacks may look at, as the environment gives it, batch first
    :return: one step
    """
    model.policy.set_training_mode(False)
    if model._vec_normalize_env is not None:
        observation = model._vec_normalize_env.normalize_obs(observation)
    callback.on_rollout_start()
    model.num_timesteps += 1
    nothing = np.zeros(1, np.float32)
    callback.update_locals(dict(self=model, new_obs=observation, rewards=nothing, dones=nothing.astype(bool)))
    if not callback.on_step():
        return RolloutReturn(1, 0, continue_training=False)
    model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
    callback.on_rollout_end()
    # SB3 logs by episodes, of which there are none; a callback may have logged just now
    if model.num_timesteps % LOG_EVERY == 0 and model.logger.name_to_value:
        model.dump_logs()
    return RolloutReturn(1, 0, continue_training=True)


def fit_normalizations(model: Any, observations: Observations) -> None:
    """
    Make statistics of observations those of a data set: a `VecNormalize`'s, which then stay, and those of a policy that
    normalises by itself and has observed nothing yet.

    :param model: of SB3's off-policy form
    :param observations: of the data set, as the environment gives them
    """
    if model._vec_normalize_env is not None:
        _fit_wrapper(model._vec_normalize_env, observations)
    normalization = getattr(model.policy, "normalization", None)
    if normalization is not None and normalization.count == 0:
        _fit_policy(normalization, observations, model)


def _fit_wrapper(normalization: Any, observations: Observations) -> None:
    if normalization.norm_obs:
        statistics = normalization.obs_rms
        pairs: Any = [(statistics, observations)]
        if isinstance(observations, dict):
            pairs = [(one, observations[key]) for key, one in statistics.items()]
        for one, data in pairs:
            one.mean, one.var, one.count = data.mean(0, np.float64), data.var(0, np.float64), len(data)
    normalization.training = normalization.norm_reward = False


def _fit_policy(normalization: Any, observations: Observations, model: Any) -> None:
    n = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
    for first in range(0, n, ROWS):
        rows = take(observations, slice(first, first + ROWS))
        if model._vec_normalize_env is not None:  # the policy sees what it makes of them
            rows = model._vec_normalize_env.normalize_obs(rows)
        if isinstance(rows, dict):
            rows = {key: rows[key] for key in normalization.keys}
        normalization.observe(obs_as_tensor(rows, model.device))


def take(observations: Observations, index: Any) -> Any:
    """Some rows of observations."""
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index]


def channels_first(observations: Observations, space: spaces.Space | None) -> Observations:
    """Images as the algorithm sees them, whichever of the two forms they are given in; the rest as it is."""
    if isinstance(observations, dict):
        of_key = getattr(space, "spaces", {})
        return {key: channels_first(value, of_key.get(key)) for key, value in observations.items()}  # type: ignore[misc]
    return maybe_transpose(observations, space) if observations.ndim == 4 else observations  # type: ignore[arg-type]
