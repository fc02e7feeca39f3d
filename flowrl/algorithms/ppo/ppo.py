"""PPO on a fast path: Stable-Baselines3's algorithm and interface, the same mathematics, fewer and larger kernels."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from stable_baselines3 import ppo
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from flowrl.algorithms.ppo.minibatches import minibatches
from flowrl.kernels.flat import FlatAdam, is_same, why_not_flat
from flowrl.kernels.flow_kernel import FlowKernel, flow_kernel
from flowrl.kernels.networks import equal_shapes, float32, is_stateless, network_stack, stacked_order
from flowrl.kernels.plain_network import PlainNetwork
from flowrl.policies.action_distribution import check_finite
from flowrl.policies.on_policy import FlowActorCriticMixin

log = logging.getLogger(__name__)

Density = tuple[Tensor, Tensor | None, Callable[[Tensor], Tensor]]
"""Log-probs, shape ``(batch,)``, entropies if they are wanted, and the gradient in the flow's parameters of that in the
log-probs, which writes that in the layers' own networks."""


class PPO(ppo.PPO):
    """
    Proximal Policy Optimization (Schulman et al. 2017) with the update of Stable-Baselines3 2.9, `PPO.train`, faster.

    The same losses and gradients up to rounding: the actor's and the critic's networks are one batched matrix product,
    the losses' gradients are written out, minibatches are views of a rollout that is shuffled once an epoch, and the
    optimiser's step is one kernel. Its models are SB3's: either loads what the other has saved. What it cannot serve (a
    Gaussian policy, say) runs SB3's own update, and that is said once.

    Where ``ent_coef`` is zero the entropy is not sampled, since nothing but the log would read it:
    ``train/entropy_loss`` is then the mean log-prob of the rollout's actions, an estimate of the same.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        self._prepare()

    def _prepare(self) -> None:
        reason = _why_not_fast(self.policy)
        self._fast = None if reason else _FastUpdate(self)
        self._prepared_for = [id(self), self.policy.optimizer]
        if reason:
            log.warning("flowrl's PPO runs Stable-Baselines3's own update: %s.", reason)

    def _up_to_date(self) -> "_FastUpdate | None":
        if not is_same([id(self), self.policy.optimizer], self._prepared_for):
            self._prepare()  # the model is a copy, or somebody has put an optimiser of their own in place
        return self._fast

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        policy: Any = self.policy
        fast = self._up_to_date()
        if fast is None:
            return super().collect_rollouts(*args, **kwargs)
        fast.flat.attach()
        policy.fast = fast
        try:
            return super().collect_rollouts(*args, **kwargs)
        finally:
            policy.fast = None

    def train(self) -> None:
        self._up_to_date()
        if self._fast is None:
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._fast.flat.attach()
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        losses: list[dict[str, Tensor]] = []
        for epoch in range(self.n_epochs):
            first_of_epoch, stopped = len(losses), False
            for batch in minibatches(self.rollout_buffer, self.batch_size):
                losses.append(self._fast.losses(batch, clip_range, clip_range_vf))
                if self.target_kl is not None and losses[-1]["approx_kl"] > 1.5 * self.target_kl:
                    stopped = True
                    if self.verbose >= 1:
                        divergence = losses[-1]["approx_kl"].item()
                        print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                    break
                self._fast.step()
            self._n_updates += 1
            if stopped:
                break

        table = torch.stack([torch.stack(list(row.values())) for row in losses]).cpu()
        means = dict(zip(losses[0], table.mean(0).tolist()))
        # SB3's logs: the divergence of the last epoch, the loss of the last minibatch, means of all the rest
        means["approx_kl"] = table[first_of_epoch:, list(losses[0]).index("approx_kl")].mean().item()
        means["loss"] = losses[-1]["loss"].item()
        for name, value in means.items():
            self.logger.record(f"train/{name}", value)
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_fast", "_prepared_for"]


class _FastUpdate:
    """The policy in the form that one update needs, and that update."""

    def __init__(self, model: PPO) -> None:
        self.model = model
        policy: Any = model.policy
        networks = _networks(policy)
        trunk = [network.layers for network in networks]
        heads = [[policy.action_net.context_map], [policy.value_net]]
        order = stacked_order(trunk) + stacked_order(heads[:1]) + stacked_order(heads[1:])
        policy.optimizer = self.optimizer = FlatAdam(policy.optimizer, order)
        self.flat = self.optimizer.flat
        self.trunk = network_stack(trunk, self.flat, float32, networks[0].activation, active_end=True)
        self.actor_head, self.critic_head = (network_stack([head], self.flat, float32) for head in heads)
        self.kernel = flow_kernel(policy.action_net, policy.action_dist, self.flat, order)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """None: a copied model's parameters lie elsewhere, and it prepares itself anew."""

    def __reduce__(self) -> Any:
        return type(None), ()  # as for a copy

    @torch.no_grad()
    def act(self, obs: Any, deterministic: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What `ActorCriticPolicy.forward` returns, without gradients: actions, values, log-probs."""
        policy: Any = self.model.policy
        parameters, values, _ = self._evaluate(obs)
        if self.kernel is not None and not deterministic:
            actions, log_prob, _ = self.kernel.sample(parameters, self.kernel.noise(len(parameters), parameters))
            check_finite(actions)
        else:
            distribution = policy.action_dist.proba_distribution(policy.action_net.from_parameters(parameters))
            actions = distribution.get_actions(deterministic=deterministic)
            log_prob = distribution.log_prob(actions)
        return actions.reshape((-1, *policy.action_space.shape)), values.clone(), log_prob

    @torch.no_grad()
    def _evaluate(self, obs: Any) -> tuple[Tensor, Tensor, tuple[Any, Any, Any]]:
        """The flow's parameters, shape ``(batch, n)``, values, ``(batch, 1)``, and what the gradients need."""
        policy: Any = self.model.policy
        # One pass, whether or not each network has an extractor of its own: they have no parameters
        features = BasePolicy.extract_features(policy, obs, policy.pi_features_extractor)
        latents, trunk = self.trunk.forward(features)
        (parameters,), actor_head = self.actor_head.forward(latents[:1])
        (values,), critic_head = self.critic_head.forward(latents[1:])
        return parameters, values, (trunk, actor_head, critic_head)

    @torch.no_grad()
    def losses(self, batch: RolloutBufferSamples, clip_range: float, clip_range_vf: float | None) -> dict[str, Tensor]:
        """The losses of a minibatch, by the names of SB3's logs; their gradients are written to the parameters."""
        model = self.model
        size = len(batch.advantages)
        parameters, values, (trunk, actor_head, critic_head) = self._evaluate(batch.observations)
        values = values.flatten()
        log_prob, entropy, backward = (self._density if self.kernel is None else self._density_by_kernel)(
            parameters, batch.actions
        )

        advantages = batch.advantages
        if model.normalize_advantage and size > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        surrogate = advantages * ratio
        clipped = advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.minimum(surrogate, clipped).mean()
        # Where the clipped surrogate is the smaller one it is constant in the ratio
        to_log_prob = (surrogate * (surrogate <= clipped)).mul_(-1 / size)

        if clip_range_vf is None:
            error = values - batch.returns
            to_values = (2 * model.vf_coef / size) * error
        else:
            change = values - batch.old_values
            error = batch.old_values + change.clamp(-clip_range_vf, clip_range_vf) - batch.returns
            to_values = (2 * model.vf_coef / size) * error * (change.abs() <= clip_range_vf)
        value_loss = error.square().mean()
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()

        to_parameters = backward(to_log_prob)[None]
        to_values = to_values[None, :, None]
        self.actor_head.gradients(to_parameters, actor_head)
        self.critic_head.gradients(to_values, critic_head)
        to_latents = (
            self.actor_head.input_gradient(to_parameters, actor_head),
            self.critic_head.input_gradient(to_values, critic_head),
        )
        self.trunk.gradients(torch.cat(to_latents), trunk)
        return dict(
            entropy_loss=entropy_loss,
            policy_gradient_loss=policy_loss,
            value_loss=value_loss,
            approx_kl=(torch.expm1(log_ratio) - log_ratio).mean(),
            clip_fraction=((ratio - 1).abs() > clip_range).float().mean(),
            loss=policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss,
        )

    def _density(self, parameters: Tensor, actions: Tensor) -> Density:
        """By autograd."""
        policy: Any = self.model.policy
        with torch.enable_grad():
            parameters = parameters.detach().requires_grad_()
            distribution = policy.action_dist.proba_distribution(policy.action_net.from_parameters(parameters))
            outputs = [distribution.log_prob(actions)]
            if self.model.ent_coef != 0:
                outputs.append(distribution.entropy())

        def backward(to_log_prob: Tensor) -> Tensor:
            self.flat.gradient.zero_()
            to_entropy = torch.full_like(to_log_prob, -self.model.ent_coef / len(to_log_prob))
            torch.autograd.backward(outputs, [to_log_prob, to_entropy][: len(outputs)])
            return parameters.grad  # type: ignore[return-value]

        log_prob, *entropy = (output.detach() for output in outputs)
        return log_prob, entropy[0] if entropy else None, backward

    def _density_by_kernel(self, parameters: Tensor, actions: Tensor) -> Density:
        """In C."""
        kernel: FlowKernel = self.kernel  # type: ignore[assignment]
        log_prob, scored = kernel.score(parameters, actions)
        if self.model.ent_coef == 0:
            return log_prob, None, partial(kernel.gradients, scored, inverse=True)
        _, sampled_log_prob, sampled = kernel.sample(parameters, kernel.noise(len(parameters), parameters))

        def backward(to_log_prob: Tensor) -> Tensor:
            to_parameters = kernel.gradients(scored, to_log_prob, inverse=True)
            to_weights = [gradient.clone() for gradient in kernel.weight_gradients]
            # entropy_loss = mean(log_prob of the sample)
            to_sampled = torch.full_like(to_log_prob, self.model.ent_coef / len(to_log_prob))
            to_parameters = to_parameters + kernel.gradients(sampled, to_sampled, inverse=False)
            for gradient, part in zip(kernel.weight_gradients, to_weights):
                gradient += part
            return to_parameters

        return log_prob, -sampled_log_prob, backward

    @torch.no_grad()
    def step(self) -> None:
        """Clip the gradient's norm, as `torch.nn.utils.clip_grad_norm_` does, and take the optimiser's step."""
        gradient = self.flat.gradient
        gradient.mul_((self.model.max_grad_norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1.0))
        self.optimizer.move()


def _networks(policy: Any) -> list[PlainNetwork]:
    networks = [PlainNetwork.read(net) for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net)]
    return [network for network in networks if network is not None and network.active_end]


def _why_not_fast(policy: Any) -> str | None:
    """What keeps a policy from the fast path; None if nothing does."""
    if not isinstance(policy, FlowActorCriticMixin) or policy.action_net.is_external:
        return f"its policy is {type(policy).__name__}, not a flow policy of flowrl's recipes"
    cls: Any = type(policy)
    if (
        cls.evaluate_actions is not ActorCriticPolicy.evaluate_actions
        or cls.extract_features is not ActorCriticPolicy.extract_features
        or cls._get_action_dist_from_latent is not FlowActorCriticMixin._get_action_dist_from_latent
    ):
        return f"{cls.__name__} overrides what the fast path would not call"
    extractors: Any = (policy.pi_features_extractor, policy.vf_features_extractor)  # type: ignore[attr-defined]
    if not all(map(is_stateless, extractors)):
        return f"its features extractor is {type(extractors[0]).__name__}, which may hold state"
    networks = _networks(policy)
    if len(networks) != 2 or not equal_shapes(networks):
        return "its actor's and critic's networks are not of equal shapes with ReLU or tanh between their layers"
    return why_not_flat(policy.optimizer)
