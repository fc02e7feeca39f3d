"""SAC on a fast path: Stable-Baselines3's algorithm and interface, the same mathematics, fewer and larger kernels."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3 import sac
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from flowrl.algorithms.sac.replay import sample
from flowrl.kernels.actors import AutogradActor, StackedActor, actor_layers, actor_network
from flowrl.kernels.flat import FlatAdam, FlatParameters, is_same, why_not_flat
from flowrl.kernels.flow_kernel import flow_kernel
from flowrl.kernels.networks import (
    Product,
    is_stateless,
    network_stack,
    product_for,
    stacked_order,
)
from flowrl.kernels.plain_network import PlainNetwork
from flowrl.kernels.sac_kernel import SacKernel
from flowrl.kernels.stack import Stack

log = logging.getLogger(__name__)

LOSSES = ("ent_coef_loss", "ent_coef", "critic_loss", "actor_loss")
"""What an update returns, by the names of SB3's logs."""


class SAC(sac.SAC):
    """
    Soft Actor-Critic (Haarnoja et al. 2018) with the update of Stable-Baselines3 2.9, `SAC.train`, computed faster.

    The same losses, gradients and random numbers, step for step, up to rounding: both critics are one batched matrix
    product, the critics get no weight gradients in the actor's backward pass, one actor pass serves s and s', each
    optimiser step and the target update is one kernel. Its models are SB3's: either loads what the other has saved.
    What it cannot serve (a custom critic, another optimiser) runs SB3's own update, and that is said once.

    :param args: those of SB3's SAC
    :param precision: ``"float32"``, or ``"bf16"``: matrix products of operands rounded to bfloat16, weights kept in
        float32. Faster only on processors with bfloat16 instructions (AMX, AVX-512 BF16) and on GPUs.
    :param kwargs: those of SB3's SAC
    """

    def __init__(self, *args: Any, precision: str = "float32", **kwargs: Any) -> None:
        self.precision = precision
        product_for(precision, torch.device("cpu"))  # refuses an unknown precision before anything is built
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._prepare()

    def _prepare(self) -> None:
        reason = _why_not_fast(self)
        self._fast = None if reason else _FastUpdate(self, product_for(self.precision, self.device))
        self._prepared_for = [id(self), *_optimizers(self)]
        if reason:
            log.warning("flowrl's SAC runs Stable-Baselines3's own update: %s.", reason)

    def _up_to_date(self) -> "_FastUpdate | None":
        if not is_same([id(self), *_optimizers(self)], self._prepared_for):
            self._prepare()  # the model is a copy, or somebody has put an optimiser of their own in place
        return self._fast

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        fast = self._up_to_date()
        if fast is None:
            super().train(gradient_steps, batch_size)
            return
        if fast.has_modes:
            self.policy.set_training_mode(True)
        self._update_learning_rate([optimizer for optimizer in _optimizers(self) if optimizer is not None])
        fast.attach()
        by_kernel = fast.kernel is not None and fast.kernel.serves()
        losses = [fast.step(step, batch_size, by_kernel) for step in range(gradient_steps)]
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if losses:
            for name, mean in zip(LOSSES, _means(losses), strict=True):
                if name != "ent_coef_loss" or self.ent_coef_optimizer is not None:
                    self.logger.record(f"train/{name}", mean)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_fast", "_prepared_for"]


class _FastUpdate:
    """The networks and optimisers of a model in the form that one update needs, and that update."""

    def __init__(self, model: SAC, product: Product) -> None:
        self.model = model
        critics = [PlainNetwork.read(network) for network in model.critic.q_networks]
        targets = [PlainNetwork.read(network) for network in model.critic_target.q_networks]
        activation = critics[0].activation  # type: ignore[union-attr]
        layers, target_layers = ([network.layers for network in networks] for networks in (critics, targets))  # type: ignore[union-attr]
        model.critic.optimizer = self.critic_optimizer = FlatAdam(model.critic.optimizer, stacked_order(layers))
        self.critics = network_stack(layers, self.critic_optimizer.flat, product, activation)
        self.target = FlatParameters(stacked_order(target_layers))
        self.target_critics = network_stack(target_layers, self.target, product, activation)

        network = actor_network(model.actor)
        first = stacked_order([actor_layers(model.actor, network)]) if network else []
        model.actor.optimizer = self.actor_optimizer = FlatAdam(model.actor.optimizer, first)
        flat = self.actor_optimizer.flat
        self.actor = AutogradActor(model.actor, flat)
        if network:
            self.actor = StackedActor(model.actor, flat, network, product)
        if model.ent_coef_optimizer is not None:
            model.ent_coef_optimizer = FlatAdam(model.ent_coef_optimizer)
        optimizers: list[Any] = [self.actor_optimizer, self.critic_optimizer, model.ent_coef_optimizer]
        self.flats = [optimizer.flat for optimizer in optimizers if optimizer is not None] + [self.target]
        self.kernel = self._kernel(first)
        # Nothing in a stack differs between training and evaluation; and to switch every module takes longer than an
        # optimiser's step.
        self.has_modes = network is None

    def _kernel(self, of_stack: Sequence[Tensor]) -> SacKernel | None:
        """All of the update as one call of C, where it can be."""
        same_type = len({flat.data.dtype for flat in self.flats}) == 1
        nothing_else = self.critic_optimizer.flat.sizes == self.target.sizes  # than what lies in the stacks
        if (
            not same_type
            or not nothing_else
            or not isinstance(self.actor, StackedActor)
            or not isinstance(self.critics, Stack)
        ):
            return None
        actor = self.model.actor
        flow = flow_kernel(actor.flow, actor.action_dist, self.actor.flat, of_stack)  # type: ignore[arg-type]
        parts: Any = (self.actor.stack, flow, self.critics, self.target_critics, self.target)
        return SacKernel(self.model, *parts) if flow else None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """None: a copied model's parameters lie elsewhere, and it prepares itself anew."""

    def __reduce__(self) -> Any:
        return type(None), ()  # as for a copy

    def attach(self) -> None:
        """See :meth:`FlatParameters.attach`."""
        for flat in self.flats:
            flat.attach()

    def step(self, step: int, batch_size: int, by_kernel: bool) -> Sequence[float | Tensor]:
        """One update, by the kernel or in torch's operations; its losses."""
        model = self.model
        batch = sample(model.replay_buffer, batch_size, model._vec_normalize_env)  # type: ignore[arg-type]
        if model.use_sde:
            model.actor.reset_noise()
        # Once for the actor and the critics, where SB3 runs each one's extractor: they hold no state
        features, next_features = map(self._features, (batch.observations, batch.next_observations))
        move_targets = step % model.target_update_interval == 0
        if by_kernel:
            return self.kernel.update(batch, features, next_features, move_targets)  # type: ignore[union-attr]
        losses = self._update(batch, features, next_features)
        if move_targets:
            self.target.data.lerp_(self.critic_optimizer.flat.data, model.tau)
        return losses

    def _update(self, batch: ReplayBufferSamples, features: Tensor, next_features: Tensor) -> list[Tensor]:
        """In torch's operations. SB3's names in comments say which part of its `SAC.train` a block is."""
        model, size = self.model, len(features)
        (actions, log_prob), (next_actions, next_log_prob) = self.actor.sample(batch, features, next_features)
        discounts = batch.discounts if batch.discounts is not None else model.gamma
        with torch.no_grad():
            ent_coef, ent_coef_loss = self._temperature(log_prob)

            # target_q_values
            next_input = torch.cat((next_features, next_actions), 1)
            next_q = self.target_critics.forward(next_input)[0].amin(0)
            target = next_q.sub_((ent_coef * next_log_prob).unsqueeze(1))
            target = torch.addcmul(batch.rewards, (1 - batch.dones) * discounts, target)

            # critic_loss = 0.5 sum_i mean (q_i - target)^2
            q, passed = self.critics.forward(torch.cat((features, batch.actions), 1))
            error = q - target
            critic_loss = 0.5 * error.square().sum() / size
            self.critics.gradients(error / size, passed)
            self.critic_optimizer.move()

            # actor_loss = mean(ent_coef log_prob - min_i q_i)
            q, passed = self.critics.forward(torch.cat((features, actions), 1))
            smallest, which = q.min(0)
            actor_loss = (ent_coef * log_prob - smallest.squeeze(1)).mean()
            to_q = torch.zeros_like(q).scatter_(0, which.unsqueeze(0), -1 / size)
            to_actions = self.critics.input_gradient(to_q, passed)[..., features.shape[1] :].sum(0)
            to_log_prob = (ent_coef / size).expand_as(log_prob)
        self.actor.backward(to_actions, to_log_prob)
        self.actor_optimizer.move()
        return [ent_coef_loss.reshape(()), ent_coef.reshape(()), critic_loss, actor_loss]

    def _temperature(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """The entropy coefficient, which is then moved; and the loss that moves it."""
        model = self.model
        if model.ent_coef_optimizer is None:
            return model.ent_coef_tensor, torch.zeros_like(model.ent_coef_tensor)
        log_ent_coef: Tensor = model.log_ent_coef  # type: ignore[assignment]
        ent_coef = log_ent_coef.exp()
        gradient = -(log_prob.mean() + float(model.target_entropy))  # of -log_ent_coef mean(log_prob + target_entropy)
        loss = log_ent_coef.squeeze() * gradient
        optimizer: Any = model.ent_coef_optimizer
        optimizer.flat.gradient.copy_(gradient)
        optimizer.move()
        return ent_coef, loss

    def _features(self, obs: Any) -> Tensor:
        return self.model.critic.extract_features(obs, self.model.critic.features_extractor)


def _why_not_fast(model: SAC) -> str | None:
    """What keeps a model from the fast path; None if nothing does."""
    critic = model.critic
    if type(critic) is not ContinuousCritic:
        return f"its critic is {type(critic).__name__}, not Stable-Baselines3's ContinuousCritic"
    if not is_stateless(critic.features_extractor):
        return f"its features extractor is {type(critic.features_extractor).__name__}, which may hold state"
    networks = [PlainNetwork.read(network) for network in critic.q_networks]
    if any(network is None or network.active_end for network in networks):
        return "its critics are not plain networks of linear layers with ReLU or tanh between them"
    for optimizer in _optimizers(model):
        reason = why_not_flat(optimizer) if optimizer is not None else None
        if reason:
            return reason
    return None


def _means(losses: list[Sequence[float | Tensor]]) -> list[float]:
    """Of each loss over the updates."""
    if isinstance(losses[0][0], Tensor):  # one transfer, hence one synchronisation of a GPU, for all of them
        return torch.stack([torch.stack(list(step)) for step in losses]).mean(0).tolist()  # type: ignore[arg-type]
    return [sum(each) / len(losses) for each in zip(*losses)]


def _optimizers(model: SAC) -> list[Any]:
    """Of the actor, the critics and, where it is trained, the entropy coefficient."""
    return [model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer]
