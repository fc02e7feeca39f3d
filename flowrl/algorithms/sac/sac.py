"""SAC: Stable-Baselines3's algorithm and interface, whose update is one call of C where it can be."""

import math
from typing import Any, ClassVar

import torch
from stable_baselines3 import sac
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import obs_as_tensor

from flowrl.algorithms.continuous_actions import ContinuousActionsMixin
from flowrl.algorithms.finite import check_losses
from flowrl.algorithms.gradients import gradient_norm
from flowrl.algorithms.policy_class import check_policy_class
from flowrl.algorithms.replay import hold_pre_squash, sample
from flowrl.algorithms.sac.update import update
from flowrl.algorithms.update_form import UpdateFormMixin


class SAC(ContinuousActionsMixin, UpdateFormMixin, sac.SAC):
    """
    Soft Actor-Critic (Haarnoja et al. 2018) with the update of Stable-Baselines3 2.9, `SAC.train`, computed faster.

    The same losses, gradients and random numbers, step for step, up to rounding. Its models are SB3's: either loads
    what the other has saved. With a flow that the kernels know, the update is one call of C, on a GPU one of a CUDA
    graph; with anything else it is torch's (`flowrl.algorithms.sac.update`).
    :attr:`update_form` says which, :attr:`update_reason` why.

    :param target_entropy: as SB3's; ``"auto_0.5"``: -0.5 d, for d action dimensions
    :raises ValueError: for an action space that is not continuous
    :raises flowrl.Diverged: in training, where a loss is NaN or infinite
    """

    losses: tuple[str, ...] = ("ent_coef_loss", "ent_coef", "critic_loss", "actor_loss")
    """What an update returns, by the names of SB3's logs."""
    losses_of_moving: tuple[str, ...] = ("ent_coef_loss", "actor_loss")
    """Those of them that an update has only where it moves the actor."""
    _torch_update = update
    own_policies: ClassVar[str | None] = None
    """The algorithm whose policies it needs, see :func:`check_policy_class`."""

    def _setup_model(self) -> None:
        check_policy_class(self, self.own_policies)
        self.target_entropy = target_entropy(self.target_entropy, self.action_space)
        super()._setup_model()
        self.choose_update()

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
    ) -> None:
        """Counts the observation in where the policy normalises, then stores as SB3 does."""
        normalization = getattr(self.policy, "normalization", None)
        if normalization is not None:
            normalization.observe(obs_as_tensor(new_obs, self.device))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """
        See SB3's `BaseAlgorithm.set_parameters`.

        :raises TypeError: where the temperature is learned there and fixed here, or the other way round
        """
        if not isinstance(load_path_or_dict, dict):
            _, found, _ = load_from_zip_file(load_path_or_dict, load_data=False, device=device)
            load_path_or_dict = found or {}
        if exact_match:
            ours, _ = self._get_torch_save_params()
            if set(ours) ^ set(load_path_or_dict) == {"ent_coef_optimizer"}:
                here, there = ("learned", "fixed") if "ent_coef_optimizer" in ours else ("fixed", "learned")
                raise TypeError(  # a ValueError is SB3's to look at
                    f"The temperature is {there} in the file and {here} with ent_coef={self.ent_coef!r}: load the "
                    "model without ent_coef, or give a new one its policy (model.policy.load_state_dict)."
                )
        super().set_parameters(load_path_or_dict, exact_match, device)

    def save_replay_buffer(self, path: Any) -> None:
        """As SB3's; the file says which form its actions have."""
        self.replay_buffer.holds_pre_squash = self.holds_pre_squash  # type: ignore[union-attr]
        super().save_replay_buffer(path)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """As SB3's; actions that NFQ has collected become SAC's, and the other way round."""
        super().load_replay_buffer(path, truncate_last_traj)
        hold_pre_squash(self.replay_buffer, self.holds_pre_squash)

    @property
    def moves_actor(self) -> bool:
        """Whether the next update moves the actor."""
        return True

    @property
    def holds_pre_squash(self) -> bool:
        """Whether the replay buffer holds u = atanh(a) in the place of actions a."""
        return getattr(self.actor, "pre_squash", False)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """See SB3's `SAC.train`."""
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        compiled = self.choose_update()
        if compiled is None:  # C has no training mode; a recorded update sets it by itself
            self.policy.set_training_mode(True)
        on_the_cpu = self.update_form == "CUDA graph"
        losses: list[Any] = []
        moved: list[bool] = []
        for step in range(gradient_steps):
            batch = sample(self.replay_buffer, batch_size, self._vec_normalize_env, on_the_cpu)  # type: ignore[arg-type]
            move_targets = step % self.target_update_interval == 0
            moved.append(self.moves_actor)
            losses.append(compiled(self, batch, move_targets) if compiled else self._torch_update(batch, move_targets))
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if not losses:
            return
        means = self._mean_losses(losses, moved)
        check_losses(means, self.num_timesteps)
        for name, mean in means.items():
            if name != "ent_coef_loss" or self.ent_coef_optimizer is not None:
                self.logger.record(f"train/{name}", mean)

    def _mean_losses(self, losses: list[Any], moved: list[bool]) -> dict[str, float]:
        """
        :param losses: of each update
        :param moved: whether each moved the actor
        :return: the mean of each by its name, of those that moving has over the updates that moved the actor alone
        """
        means = dict(zip(self.losses, _means(losses), strict=True))
        if all(moved):
            return means
        of_moving = [each for each, has_moved in zip(losses, moved) if has_moved]
        means_of_moving = dict(zip(self.losses, _means(of_moving), strict=True)) if of_moving else {}
        held = {name: mean for name, mean in means.items() if name not in self.losses_of_moving}
        return held | {name: means_of_moving[name] for name in self.losses_of_moving if name in means_of_moving}

    def gradient_norms(self) -> dict[str, float]:
        """
        Of the actor's and the critics' gradients in the last update; on a GPU of the kind of update that was recorded
        last, where there are several (NFAC's that do not move the actor).
        """
        return {name: gradient_norm(getattr(self, name).parameters()) for name in ("actor", "critic")}


def target_entropy(given: str | float, action_space: Any) -> str | float:
    """
    :param given: SB3's ``"auto"`` or a number; ``"auto_0.5"``: -0.5 for each of the d action dimensions
    :param action_space: of the environment
    :return: as SB3 takes it
    :raises ValueError: for anything else
    """
    if not isinstance(given, str) or given == "auto":
        return given
    try:
        if given.startswith("auto_"):
            return -float(given.removeprefix("auto_")) * math.prod(action_space.shape)
        return float(given)
    except ValueError:
        raise ValueError(f'target_entropy is "auto", "auto_0.5" or a number of nats, got {given!r}.') from None


def _means(losses: list[Any]) -> list[float]:
    """Of each loss over the updates."""
    if isinstance(losses[0], torch.Tensor):  # one transfer, hence one synchronisation of a GPU, for all of them
        return (losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)).tolist()
    return [sum(each) / len(losses) for each in zip(*losses)]
