"""An epoch of PPO with a flow as one call of C: see csrc/ppo.c."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

from flowrl.algorithms.ppo.minibatches import is_array_backed
from flowrl.kernels.adam import AdamStep, why_not_adam
from flowrl.kernels.flow import flow_job
from flowrl.kernels.guard import AUTOCAST, HOOKED, Guard, are_silent
from flowrl.kernels.library import MAX_SIZES, NO_LIBRARY, POINTER, Memory, function, load, pointers
from flowrl.kernels.networks import BATCH_NORMED, NO_PERCEPTRON, Networks, Perceptron, is_stateless
from flowrl.kernels.program import LoweredFlow, lowered
from flowrl.kernels.structures import enumeration, structure
from flowrl.policies.action_distribution import FlowDistribution
from flowrl.policies.on_policy import FlowActorCriticMixin

Ppo = structure("Ppo")
LOSSES = tuple(name.lower() for name in enumeration("Loss") if name != "LOSSES")


class Parts(NamedTuple):
    """What an update is made of; where a part has been replaced, it is made anew."""

    actor: Perceptron
    critic: Perceptron
    flow: LoweredFlow
    distribution: FlowDistribution


class PPOUpdate:
    """
    Updates of a model.

    :param model: the model
    :param parts: its networks
    """

    def __init__(self, model: PPO, parts: Parts) -> None:
        self.parts = parts
        self._policy, self._guard = model.policy, Guard(model.policy.modules())
        program: Any = parts.flow.program
        distribution = parts.distribution
        self.program = program.with_squash(distribution.pre_squash) if distribution.squash else program
        self.actor, self.critic = Networks([parts.actor]), Networks([parts.critic])
        self.dtype = parts.actor.layers[0].weight.dtype
        self.flow_weights = parts.flow.weights()
        self.adam = AdamStep(self._parameters())
        self._memory = lru_cache(MAX_SIZES)(self._new_memory)

    def is_of(self, model: PPO) -> bool:
        """Whether nothing that it was made of has been replaced, and no hook listens."""
        policy: Any = model.policy
        is_same = self._policy is policy and self.parts.distribution is policy.action_dist
        return is_same and self._guard.holds()

    def _parameters(self) -> list[Tensor]:
        return [*self.actor.parameters(), *self.parts.flow.weights(), *self.critic.parameters()]

    def why_not(self, model: PPO) -> str:
        """What stands in the way now; "" if nothing does."""
        if torch.is_autocast_enabled("cpu"):
            return AUTOCAST
        if not is_array_backed(model.rollout_buffer):
            return f"the rollout lies in a {type(model.rollout_buffer).__name__} that hands out minibatches by itself"
        optimizer = model.policy.optimizer
        fits = "parameters differ in type or device, or are not contiguous"
        return why_not_adam(optimizer, self.adam.parameters) or ("" if self.adam.fits(optimizer) else fits)

    def __call__(
        self, model: PPO, rollout: RolloutBufferSamples, size: int, clip_range: float, clip_range_vf: float | None
    ) -> list[dict[str, float]]:
        """
        Move the policy by minibatches of a shuffled rollout, one after the other.

        :param model: what :meth:`why_not` was asked of
        :param rollout: all of its steps, or those of one minibatch
        :param size: steps in a minibatch
        :param clip_range: of the ratio of probabilities
        :param clip_range_vf: of the change in values; None: it is not clipped
        :return: the losses of each minibatch, by the names of SB3's logs. The last one has moved nothing where its
            divergence is beyond 1.5 ``target_kl``, or its loss is not finite.
        """
        policy: Any = model.policy
        self.adam.read(policy.optimizer)
        steps, d = rollout.actions.shape
        job, _kept = self._memory(min(size, steps))
        # One pass, whether or not each network has an extractor of its own: they have no parameters
        states = BasePolicy.extract_features(policy, rollout.observations, policy.pi_features_extractor)
        # Drawn as every minibatch draws them, also where no entropy is wanted: SB3 draws them all the same
        noise = torch.cat([torch.randn((n, d), dtype=self.dtype) for n in _sizes(steps, size)])
        _, actions, *others = rollout
        given = [tensor.to(self.dtype).contiguous() for tensor in (states, actions, noise, *others)]
        job.states, job.taken, job.noise, job.old_values, job.old_log_prob, job.advantages, job.returns = (
            tensor.data_ptr() for tensor in given
        )
        job.adam = self.adam.job
        job.normalize, job.clip = model.normalize_advantage, clip_range
        job.clip_values = -1.0 if clip_range_vf is None else clip_range_vf
        job.entropy_weight, job.value_weight = model.ent_coef, model.vf_coef
        job.max_norm = math.inf if model.max_grad_norm is None else model.max_grad_norm
        job.max_kl = float("inf") if model.target_kl is None else 1.5 * model.target_kl
        losses = (ctypes.c_double * (len(LOSSES) * len(_sizes(steps, size))))()
        job.losses = ctypes.addressof(losses)
        epoch = function(self.dtype, "ppo_epoch", ctypes.c_int64, ctypes.c_int64)
        count = epoch(torch.get_num_threads(), ctypes.addressof(job), steps, size)
        rows = [losses[i : i + len(LOSSES)] for i in range(0, count * len(LOSSES), len(LOSSES))]
        return [dict(zip(LOSSES, row)) for row in rows]

    def _new_memory(self, n: int) -> tuple[Any, Memory]:
        """The job for minibatches of a size at most, and the memory that it works in."""
        new = Memory(self.dtype)
        features, d = self.actor.widths[0], self.parts.distribution.action_dim
        job = Ppo(features=features, actions=d)
        job.x, job.to_ladj = new(features, n), new(n)
        values, gradients = map(ctypes.addressof, (self.adam.values, self.adam.gradients))
        job.actor = self.actor.job(n, new, x=job.x, weights=values, to_weights=gradients)
        first_of_flow = POINTER * len(self.actor.parameters())
        first_of_critic = first_of_flow + POINTER * len(self.flow_weights)
        job.critic = self.critic.job(
            n, new, x=job.x, weights=values + first_of_critic, to_weights=gradients + first_of_critic
        )
        job.scored, job.sampled = (flow_job(self.program, n, d, new) for _ in range(2))
        job.scored.inverse = True
        for flow in (job.scored, job.sampled):
            flow.weights, flow.to_weights, flow.to_ladj = values + first_of_flow, gradients + first_of_flow, job.to_ladj
        apart = [torch.empty_like(weight) for weight in self.flow_weights]
        table, sizes = pointers(apart), (ctypes.c_int64 * len(apart))(*(weight.numel() for weight in apart))
        new.kept += [apart, table, sizes]
        job.sampled.to_weights = job.to_sampled_weights = ctypes.addressof(table)
        job.sampled.to_parameters = new(self.actor.widths[-1], n)
        job.flow_sizes, job.flow_tensors = ctypes.addressof(sizes), len(apart)
        return job, new


def _sizes(steps: int, size: int) -> list[int]:
    return [min(size, steps - first) for first in range(0, steps, size)]


CALLED_BY_TORCH = {
    "evaluate_actions": ActorCriticPolicy,
    "extract_features": ActorCriticPolicy,
    "_get_action_dist_from_latent": FlowActorCriticMixin,
}


def read_parts(model: PPO) -> tuple[Parts | None, str]:
    """
    :param model: whose networks are looked at anew
    :return: what its update is made of and ""; or None and why C cannot serve
    """
    policy: Any = model.policy
    if model.device.type != "cpu":
        return None, f"the device is {model.device}"
    if not issubclass(type(policy), FlowActorCriticMixin) or policy.action_net.is_external:
        return None, f"the policy is {type(policy).__name__}, not a flow policy of flowrl's recipes"
    for name, base in CALLED_BY_TORCH.items():
        if getattr(type(policy), name) is not getattr(base, name) or name in vars(policy):
            return None, f"{type(policy).__name__}.{name} is overridden"
    extractors: list[Any] = [policy.pi_features_extractor, policy.vf_features_extractor]
    if not all(map(is_stateless, extractors)):
        return None, f"the features extractor is {type(extractors[0]).__name__}, which may hold state"
    if not are_silent([*policy.modules()]):
        return None, HOOKED
    found = lowered(policy.action_net)
    if found is None:
        return None, "the flow has layers that the kernel does not know"
    if type(policy.action_dist) is not FlowDistribution:
        return None, f"the actions' distribution is {type(policy.action_dist).__name__}, not FlowDistribution"
    extractor = policy.mlp_extractor
    actor, critic = (Perceptron.read(net) for net in (extractor.policy_net, extractor.value_net))
    actor = actor and actor.followed_by(policy.action_net.context_map)
    critic = critic and critic.followed_by(policy.value_net)
    is_own = type(extractor) is MlpExtractor and not {"forward_actor", "forward_critic"} & vars(extractor).keys()
    if actor is None or critic is None or not is_own:
        return None, NO_PERCEPTRON
    if actor.has_batch_norms or critic.has_batch_norms:
        return None, BATCH_NORMED
    if load(actor.layers[0].weight.dtype) is None:
        return None, NO_LIBRARY
    return Parts(actor, critic, found, policy.action_dist), ""
