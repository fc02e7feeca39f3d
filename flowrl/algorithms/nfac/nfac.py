"""NFAC: a flow as the actor, and a flow of the return as its critic."""

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy

from flowrl.algorithms.nfac.held_noise import HeldNoise
from flowrl.algorithms.nfac.update import update
from flowrl.algorithms.sac import SAC
from flowrl.critics.heads import ScalarHead
from flowrl.critics.risk import Distortion, find_distortion
from flowrl.networks import ReturnScale
from flowrl.options import not_negative, whole
from flowrl.policies.action_distribution import check_finite
from flowrl.policies.return_critic import NFACCnnPolicy, NFACMultiInputPolicy, NFACPolicy


class NFAC(SAC):
    """
    Soft actor-critic with a flow as the actor, and critics that give the distribution of the return: see
    `flowrl.algorithms.nfac.update`.

    Arguments are those of SB3's SAC, and these. Values and temperature are in scaled rewards, r / sigma.

    :param critic: ``"flow"`` (where ``policy_kwargs`` says no other), ``"categorical"``, ``"quantile"`` or ``"scalar"``
    :param risk: what the actor maximises of a return: ``"neutral"``, ``"cvar:0.25"``, ``"wang:0.75"``
    :param drop_atoms: how many of the highest atoms of each critic are left out of the target, as TQC does; 0: the
        target is the whole distribution of the critic whose mean is the smaller. For critics whose atoms weigh the
        same: ``"flow"`` and ``"quantile"``
    :param actor_pessimism: whether the actor goes by the smallest of the critics' values, as SAC's does, else by their
        mean
    :param scale_rewards: whether sigma is the running deviation of the discounted return, see
        :class:`flowrl.networks.ReturnScale`; else 1
    :param policy_delay: the actor and the temperature move in every so many updates, and their losses are logged for
        these alone
    :param noise_hold: exponent of the lengths of time for which the flow's noise is held in exploration, see
        :class:`flowrl.algorithms.nfac.held_noise.HeldNoise`; None: it is drawn at every step
    :param target_entropy: as SB3's; ``"auto_0.5"``: -0.5 d, for d action dimensions
    :raises ValueError: for an unknown risk, and for numbers out of their range; in training, where an observation or a
        reward is NaN or infinite
    :raises flowrl.Diverged: in training, where a loss is NaN or infinite
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "FlowPolicy": NFACPolicy,
        "FlowCnnPolicy": NFACCnnPolicy,
        "FlowMultiInputPolicy": NFACMultiInputPolicy,
    }
    policy: Any
    action_space: spaces.Box
    actor: Any
    critic: Any
    critic_target: Any
    losses = ("ent_coef_loss", "ent_coef", "critic_loss", "actor_loss", "value", "clipped_targets")
    _torch_update = update
    own_policies = "NFAC"

    def __init__(
        self,
        policy: str | type[NFACPolicy],
        env: Any,
        *args: Any,
        critic: str | None = None,
        risk: str = "neutral",
        drop_atoms: int = 0,
        actor_pessimism: bool = True,
        scale_rewards: bool = True,
        policy_delay: int = 1,
        noise_hold: float | None = None,
        **kwargs: Any,
    ):
        self.risk = risk
        self.drop_atoms = drop_atoms
        self.actor_pessimism = actor_pessimism
        self.scale_rewards = scale_rewards
        self.policy_delay = policy_delay
        self.noise_hold = noise_hold
        if critic is not None:
            kwargs["policy_kwargs"] = (kwargs.get("policy_kwargs") or {}) | dict(critic=critic)
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        find_distortion(self.risk)
        whole("policy_delay", self.policy_delay, 1)
        whole("drop_atoms", self.drop_atoms, 0)
        given, saved = vars(self).get("critic"), self.policy_kwargs.get("critic", "flow")
        if isinstance(given, str) and given != saved:  # of load, which puts its arguments where the networks will be
            raise ValueError(f"critic={given!r}, where the model in the file has {saved!r}: make a new NFAC.")
        super()._setup_model()
        head = self.critic.head
        if self.drop_atoms > head.droppable:
            raise ValueError(
                f"drop_atoms must be at most {head.droppable} with a {type(head).__name__}, since atoms that are left "
                f"out must weigh the same as those that stay, and one must stay; got {self.drop_atoms}."
            )
        if isinstance(head, ScalarHead) and self.risk != "neutral":
            raise ValueError(
                f"risk={self.risk!r} is of the return's distribution, and a scalar critic knows its mean alone: give "
                'critic="categorical", "flow" or "quantile", or leave risk out.'
            )
        self.return_scale = ReturnScale(head.bound)
        self.held_noise = self._make_held_noise()

    def _make_held_noise(self) -> HeldNoise | None:
        if self.noise_hold is None:
            return None
        if self.action_noise is not None:
            raise ValueError("noise_hold and action_noise are two ways of exploring: leave one out.")
        if self.actor.flow.is_external:
            raise ValueError(
                f"noise_hold={self.noise_hold!r} holds the noise that one of flowrl's recipes bends; a flow of another "
                "library keeps its noise to itself: leave noise_hold out."
            )
        return HeldNoise(not_negative("noise_hold", self.noise_hold), self.actor.flow.features)

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        """As SB3's (2.9, `BaseAlgorithm`), which begins new episodes in the same two cases."""
        if reset_num_timesteps or self._last_obs is None:
            self.return_scale.running = []
            self.held_noise = self._make_held_noise()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    @property
    def distortion(self) -> Distortion:
        """Of the measure of risk, the same object as long as ``risk`` is the same."""
        return find_distortion(self.risk)

    @property
    def reward_scale(self) -> float:
        """Sigma, by which rewards are divided."""
        return self.return_scale.scale if self.scale_rewards else 1.0

    @torch.no_grad()
    def returns(self, observations: Any, actions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """
        What the critics, taken together, expect of actions: the distribution of the discounted return, in the
        environment's rewards, with the entropy that the targets hold.

        :param observations: as `predict` takes them, a batch
        :param actions: in the environment's units, shape ``(batch, *action_shape)``
        :return: atoms in increasing order and their weights, each of shape ``(batch, n)``
        """
        self.policy.set_training_mode(False)
        obs, _ = self.policy.obs_to_tensor(observations)
        scaled = torch.as_tensor(self.policy.scale_action(np.asarray(actions)))
        scaled = scaled.reshape(len(scaled), -1).to(next(self.critic.parameters()))
        atoms = self.critic.head.atoms(self.critic.raw(obs, scaled))
        values, order = atoms.values.transpose(0, 1).flatten(1).sort(-1)
        weights = atoms.weights.expand_as(atoms.values).transpose(0, 1).flatten(1).gather(1, order)
        weights = weights / len(atoms.values)
        values = values.cpu().numpy() * self.reward_scale
        if self._vec_normalize_env is not None:
            values = self._vec_normalize_env.unnormalize_reward(values)
        return values, weights.cpu().numpy()

    @property
    def episodes_in_hand(self) -> Any:
        """What it keeps of the episodes in which it acts, for a checkpoint in their midst."""
        return self.return_scale.running, self.held_noise

    @episodes_in_hand.setter
    def episodes_in_hand(self, kept: Any) -> None:
        self.return_scale.running, self.held_noise = kept

    @property
    def moves_actor(self) -> bool:
        """Whether the next update moves the actor."""
        return self._n_updates % self.policy_delay == 0

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """As SB3's (2.9, `OffPolicyAlgorithm`), but for the noise that is held."""
        if self.held_noise is None or action_noise is not None or self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        obs, _ = self.policy.obs_to_tensor(self._last_obs)
        noise = self.held_noise.step(n_envs).to(next(self.actor.parameters()))
        with torch.no_grad():
            scaled = check_finite(self.actor.get_distribution(obs).distribution.from_noise(noise)).cpu().numpy()
        scaled = scaled.reshape(-1, *self.action_space.shape)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
    ) -> None:
        self.return_scale.observe(reward, dones, self.gamma)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "return_scale", "held_noise"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        return [*modules, "return_scale"], variables
