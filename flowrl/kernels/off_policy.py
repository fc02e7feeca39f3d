"""What the compiled updates of SAC's form share: an actor with a flow, critics and targets, Adam, a temperature."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from flowrl.critics.return_critic import ReturnCritics
from flowrl.kernels.adam import AdamStep, why_not_adam
from flowrl.kernels.guard import AUTOCAST, HOOKED, Guard, are_same, are_silent
from flowrl.kernels.library import MAX_SIZES, NO_LIBRARY, Memory, load, run
from flowrl.kernels.networks import BATCH_NORMED, NO_PERCEPTRON, Networks, Perceptron, is_stateless
from flowrl.kernels.program import LoweredFlow, lowered
from flowrl.policies.action_distribution import FlowDistribution
from flowrl.policies.off_policy import FlowActorMixin


class Parts(NamedTuple):
    """What an update is made of; where a part has been replaced, it is made anew."""

    actor: Perceptron
    flow: LoweredFlow
    distribution: FlowDistribution
    critics: list[Perceptron]
    targets: list[Perceptron]


class OffPolicyUpdate:
    """
    Updates of a model.

    :param model: its settings are read at every update
    :param parts: its networks
    """

    call: str
    """The kernel's name."""

    def __init__(self, model: SAC, parts: Parts) -> None:
        self.parts = parts
        self._owners, self._guard = _owners(model), Guard(model.policy.modules())
        program: Any = parts.flow.program
        self.program = program.with_squash(parts.distribution.pre_squash)
        self.actor, self.critics = Networks([parts.actor]), Networks(parts.critics)
        self.targets = Networks(parts.targets)
        self.dtype = parts.actor.layers[0].weight.dtype
        self.of_actor = AdamStep(self._actor_parameters())
        self.of_critics = AdamStep(self.critics.parameters(), self.targets.parameters())
        log_ent_coef: Any = model.log_ent_coef
        self.of_temperature = None if model.ent_coef_optimizer is None else AdamStep([log_ent_coef])
        self._memory = lru_cache(MAX_SIZES)(self._new_memory)
        self._is_read = False

    def steps(self, model: SAC) -> list[tuple[AdamStep, Any]]:
        """The optimisers' steps, each with its optimiser."""
        steps = [(self.of_actor, model.actor.optimizer), (self.of_critics, model.critic.optimizer)]
        return [*steps, (self.of_temperature, model.ent_coef_optimizer)] if self.of_temperature else steps

    def is_of(self, model: SAC) -> bool:
        """Whether nothing that it was made of has been replaced, and no hook listens."""
        return are_same(self._owners, _owners(model)) and self._guard.holds()

    def _actor_parameters(self) -> list[Tensor]:
        return [*self.actor.parameters(), *self.parts.flow.weights()]

    def why_not(self, model: SAC) -> str:
        """What stands in the way now; "" if nothing does."""
        if torch.is_autocast_enabled("cpu"):
            return AUTOCAST
        for step, optimizer in self.steps(model):
            reason = why_not_adam(optimizer, step.parameters)
            if reason:
                return reason
            if not step.fits(optimizer):
                return "parameters differ in type or device, or are not contiguous"
        self._is_read = all(step.is_read for step, _ in self.steps(model))
        return ""

    def __call__(self, model: SAC, batch: ReplayBufferSamples, move_targets: bool) -> list[float]:
        """
        :param model: what :meth:`why_not` was asked of
        :param batch: of transitions
        :param move_targets: whether the target networks follow
        :return: what the algorithm's update in torch returns
        """
        if not self._is_read:  # by why_not, just now
            for step, optimizer in self.steps(model):
                step.read(optimizer)
        self._is_read = False
        features = partial(model.critic.extract_features, features_extractor=model.critic.features_extractor)
        # Once for the actor and the critics, where SB3 runs each one's extractor: they hold no state
        states, next_states = features(batch.observations), features(batch.next_observations)
        job, noise, _kept = self._memory(len(batch.actions))
        for part in self._drawn(model, noise):  # one after the other, as distributions draw
            torch.randn(part.shape, dtype=self.dtype, out=part)
        self.of_critics.follow(model.tau if move_targets else None)
        if self.of_temperature is None:
            job.log_alpha, job.alpha = None, model.ent_coef_tensor.item()
        else:
            job.of_temperature = self.of_temperature.job
            job.log_alpha, job.target_entropy = self.of_temperature.values[0], float(model.target_entropy)
        job.discount = np.float32(model.gamma)  # as SB3's: replay buffers hold float32
        tensors = (states, next_states, batch.actions, batch.rewards, batch.dones, batch.discounts)
        given = [tensor if tensor is None else tensor.to(self.dtype).contiguous() for tensor in tensors]
        job.states, job.next_states, job.taken, job.rewards, job.dones, job.discounts = (
            None if tensor is None else tensor.data_ptr() for tensor in given
        )
        self._prepare(job, model)
        run(self.dtype, self.call, job)
        return self._losses(job)

    def _losses(self, job: Any) -> list[float]:
        """What the kernel has found."""
        return list(job.losses)

    def _drawn(self, model: SAC, noise: list[Tensor]) -> list[Tensor]:
        """Those parts of the noise that this update has a use for."""
        return noise

    def _prepare(self, job: Any, model: SAC) -> None:
        """The rest of what the kernel is told."""
        raise NotImplementedError

    def _new_memory(self, n: int) -> tuple[Any, Any, Memory]:
        """The job for batches of a size, the parts of its noise, and the memory that it works in."""
        raise NotImplementedError


def _owners(model: SAC) -> list[Any]:
    """What a user may put another one in place of."""
    critics = [network for critic in (model.critic, model.critic_target) for network in _networks(critic)]
    trains_temperature = model.ent_coef_optimizer is not None
    actor: Any = model.actor
    return [
        model.policy,
        actor,
        actor.action_dist,
        model.critic,
        model.critic_target,
        getattr(model.critic, "head", None),
        getattr(model.critic_target, "head", None),
        *critics,
        model.log_ent_coef,
        trains_temperature,
    ]


def _networks(critic: Any) -> list[Any]:
    """A critic's networks, by SB3's name for them or by this library's."""
    return list(critic.q_networks if hasattr(critic, "q_networks") else critic.networks)


CALLED_BY_TORCH = ("action_log_prob", "get_distribution", "extract_features")


def read_parts(model: SAC, critic_class: type) -> tuple[Parts | None, str]:
    """
    :param model: whose networks are looked at anew
    :param critic_class: what its critic must be
    :return: what its update is made of and ""; or None and why C cannot serve
    """
    actor: Any = model.actor
    critic, target = model.critic, model.critic_target
    if model.device.type != "cpu":
        return None, f"the device is {model.device}"
    if not issubclass(type(actor), FlowActorMixin) or actor.flow.is_external:
        return None, f"the actor is {type(actor).__name__}, not a flow of flowrl's recipes"
    for name in CALLED_BY_TORCH:
        base = BaseModel if name == "extract_features" else FlowActorMixin
        if getattr(type(actor), name) is not getattr(base, name) or name in vars(actor):
            return None, f"{type(actor).__name__}.{name} is overridden"
    if type(critic) is not critic_class or type(target) is not critic_class:
        return None, f"the critic is {type(critic).__name__}, not {critic_class.__name__}"
    if "extract_features" in vars(critic) or "extract_features" in vars(target):
        return None, "the critic's extract_features is overridden"
    extractors: list[Any] = [actor.features_extractor, critic.features_extractor, target.features_extractor]
    if not all(map(is_stateless, extractors)):
        return None, f"the features extractor is {type(extractors[0]).__name__}, which may hold state"
    if type(actor.action_dist) is not FlowDistribution or not actor.action_dist.squash:
        return None, f"the actions' distribution is {type(actor.action_dist).__name__}, not a squashed FlowDistribution"
    if not are_silent([*model.policy.modules()]):
        return None, HOOKED
    found = lowered(actor.flow)
    if found is None:
        return None, "the flow has layers that the kernel does not know"
    latent = actor.latent_pi
    network = Perceptron.read(latent)
    network = network and network.followed_by(actor.flow.context_map)
    read: list[Any] = [[Perceptron.read(net) for net in _networks(owner)] for owner in (critic, target)]
    critics, targets = read
    shapes = {net and net.shape for net in (*critics, *targets)}
    if network is None or len(shapes) != 1 or None in critics or critics[0].active_end:
        return None, NO_PERCEPTRON
    if critic_class is not ReturnCritics and (network.has_batch_norms or critics[0].has_batch_norms):
        return None, BATCH_NORMED
    if load(network.layers[0].weight.dtype) is None:
        return None, NO_LIBRARY
    return Parts(network, found, actor.action_dist, critics, targets), ""
