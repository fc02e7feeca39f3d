"""Updates on a GPU: torch's operations, recorded as a CUDA graph and replayed. See `flowrl.kernels.cuda_graph`.

The first updates run as they are, with Adam's steps and learning rates on the GPU; they warm up and train. Then one is
recorded, and replayed from then on. It is recorded anew where a number, a tensor or a network that it reads is another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam, AdamW, Optimizer
from torch.utils import _pytree as pytree

from flowrl.algorithms.ppo import update as ppo
from flowrl.algorithms.ppo.minibatches import is_array_backed
from flowrl.kernels.bfloat16 import torch_precision
from flowrl.kernels.cuda_graph import WARM_UP, CudaGraph, is_current, on_a_side_stream, shapes
from flowrl.kernels.guard import Guard, are_silent
from flowrl.networks import BatchRenorm
from flowrl.policies.off_policy import FlowActorMixin
from flowrl.policies.on_policy import FlowActorCriticMixin
from flowrl.side_by_side import side_by_side


class RecordedUpdate:
    """
    The updates of a model, of which there is one recording for each shape of its batches.

    :param model: an algorithm on a GPU
    """

    form = "CUDA graph"
    statistics: tuple[type, ...] = (_BatchNorm, BatchRenorm)
    """Modules whose passes, if they were side by side, would move the same numbers."""
    settings: tuple[str, ...]
    """The model's numbers that an update reads, which a recording keeps."""

    def __init__(self, model: Any) -> None:
        self._policy, self._device = model.policy, model.device
        modules = list(model.policy.modules())
        self._is_silent, self._guard = are_silent(modules), Guard(modules)
        self._has_statistics = any(isinstance(module, self.statistics) for module in modules)
        self._optimizers = self.optimizers(model)
        self._tensors = list(model.policy.parameters())  # the guard sees to it that they are still its own
        self._rates = [
            [torch.full((), float(group["lr"]), device=model.device) for group in optimizer.param_groups]
            for optimizer in self._optimizers
        ]
        self._given_rates: list[float] = []
        self._calls: dict[Any, int] = {}
        self._graphs: dict[Any, CudaGraph] = {}
        self._seen: Any = None
        self._failure = ""

    def optimizers(self, model: Any) -> list[Optimizer]:
        """Those that an update steps."""
        raise NotImplementedError

    def beside_the_policy(self, model: Any) -> list[Tensor]:
        """Tensors that an update reads or moves and the policy does not hold."""
        return []

    def is_of(self, model: Any) -> bool:
        """Whether no network or optimiser has been replaced, and no hook listens."""
        optimizers = self.optimizers(model)
        same = len(optimizers) == len(self._optimizers) and all(a is b for a, b in zip(optimizers, self._optimizers))
        groups = [len(optimizer.param_groups) for optimizer in optimizers] == [len(rates) for rates in self._rates]
        return model.policy is self._policy and same and groups and self._guard.holds()

    def why_not(self, model: Any) -> str:
        """What stands in the way now; "" if nothing does."""
        if self._failure:
            return self._failure
        actor = getattr(model, "actor", model.policy)
        if not isinstance(actor, FlowActorMixin | FlowActorCriticMixin):
            return f"the policy is {type(model.policy).__name__}, which keeps what its last pass recorded for gradients"
        device = self._tensors[0].device
        if device.type == "cuda" and not is_current(device):
            return f"the model is on {device}, and torch.cuda.set_device has chosen another"
        if not self._is_silent:
            return "a hook listens to a network"
        if any(tensor._backward_hooks or tensor._post_accumulate_grad_hooks for tensor in self._tensors):
            return "a hook listens to a parameter"
        if self._has_statistics:
            return "batch normalisation keeps statistics, which passes side by side would both move"
        if torch.is_autocast_enabled("cuda"):
            return "autocast is on"
        for optimizer in self._optimizers:
            if type(optimizer) not in (Adam, AdamW):
                return f"its optimiser is {type(optimizer).__name__}, not Adam or AdamW"
            if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
                return "a hook listens to an optimiser"
        self._forget_what_is_stale(model)
        return ""

    def _forget_what_is_stale(self, model: Any) -> None:
        """Drop the recordings where a tensor has moved (a loaded optimiser's) or is frozen, or a number differs."""
        moments = [state for optimizer in self._optimizers for state in optimizer.state.values()]
        tensors = [*self._tensors, *model.policy.buffers(), *self.beside_the_policy(model)]
        addresses = [tensor.data_ptr() for tensor in tensors]
        addresses += [part.data_ptr() for state in moments for part in state.values() if part.is_cuda]
        options = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for optimizer in self._optimizers
            for group in optimizer.param_groups
        ]
        frozen = [tensor.requires_grad for tensor in tensors]
        seen = addresses, frozen, options, [getattr(model, name) for name in self.settings], torch_precision()
        if seen != self._seen and self._graphs:
            self._graphs.clear()
            self._calls.clear()
        self._seen = seen

    def _run(self, key: Any, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """
        Update by the recording, once there is one.

        :param key: what, beside the inputs' shapes, a recording is for
        :param function: the update in torch's operations
        :param inputs: of the update
        :return: its losses, one tensor
        """
        self._take_rates()
        key = key if self._failure else (key, shapes(inputs))
        if key not in self._graphs:
            self._policy.set_training_mode(True)
            with self._on_the_gpu():
                if self._failure or self._calls.get(key, 0) < WARM_UP:
                    self._calls[key] = self._calls.get(key, 0) + 1
                    there = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self._device), inputs)
                    return on_a_side_stream(lambda: function(*there))
                try:
                    with self.at_once():
                        self._graphs[key] = CudaGraph(function, inputs, self._device)
                except RuntimeError as error:
                    self._failure = f"it cannot be recorded as a CUDA graph ({str(error).strip().splitlines()[0]})"
                    for optimizer in self._optimizers:
                        optimizer.zero_grad()
                    return self._run(key, function, *inputs)
        return self._graphs[key](*inputs).clone()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Where a network of others must be told which of its parts a recording may compute side by side."""
        yield

    def _take_rates(self) -> None:
        """Copy learning rates that have changed to the GPU, where a recording reads them."""
        given = [float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups]
        if given != self._given_rates:
            for rate, value in zip((rate for rates in self._rates for rate in rates), given, strict=True):
                rate.fill_(value)
            self._given_rates = given

    @contextmanager
    def _on_the_gpu(self) -> Iterator[None]:
        """Adam with its counts of steps, which stay there, and its rates on the GPU; its options are put back."""
        own = ("lr", "capturable", "fused", "foreach")
        before = []
        for optimizer, rates in zip(self._optimizers, self._rates):
            for group, rate in zip(optimizer.param_groups, rates):
                before.append((group, {name: group[name] for name in own}))
                group.update(lr=rate, capturable=True, fused=True, foreach=False)
                for parameter in group["params"]:
                    if "step" in (state := optimizer.state.get(parameter, {})):
                        state["step"] = state["step"].to(parameter.device, torch.float32)
        try:
            yield
        finally:
            for group, options in before:
                group.update(options)


def bring_back_steps(model: Any) -> None:
    """
    Put Adam's counts of steps where torch's own step wants them: it would wait for each that is on the GPU.

    :param model: that has had a recorded update
    """
    owners = [getattr(model, name, None) for name in ("actor", "critic", "policy")]
    optimizers = [getattr(owner, "optimizer", None) for owner in owners] + [getattr(model, "ent_coef_optimizer", None)]
    for optimizer in optimizers:
        for state in optimizer.state.values() if isinstance(optimizer, Adam) else ():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].cpu()


class RecordedOffPolicyUpdate(RecordedUpdate):
    """The updates of SAC and of what has its form."""

    settings: tuple[str, ...] = ("gamma", "tau", "target_entropy")

    def optimizers(self, model: Any) -> list[Optimizer]:
        found = [model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer]
        return [optimizer for optimizer in found if optimizer is not None]

    def beside_the_policy(self, model: Any) -> list[Tensor]:
        fixed = model.ent_coef_optimizer is None
        return [model.ent_coef_tensor if fixed else model.log_ent_coef]

    def why_not(self, model: Any) -> str:
        return "use_sde draws noise of its own" if model.use_sde else super().why_not(model)

    def __call__(self, model: Any, batch: Any, move_targets: bool) -> Tensor:
        """See :func:`flowrl.algorithms.sac.update.update`; the batch may lie on the CPU."""
        return self._run(move_targets, lambda *parts: model._torch_update(type(batch)(*parts), move_targets), *batch)


class RecordedSACUpdate(RecordedOffPolicyUpdate):
    """The updates of SAC, whose critics are Stable-Baselines3's."""

    @contextmanager
    def at_once(self) -> Iterator[None]:
        critics = self._policy.critic, self._policy.critic_target
        for critic in critics:
            critic.q_networks = _AtOnce(critic.q_networks)
        try:
            yield
        finally:
            for critic in critics:
                critic.q_networks = list(critic.q_networks.networks)


class _AtOnce:
    """
    The networks of a `ContinuousCritic` (SB3 2.9), which calls one after the other on the same input.

    :param networks: of one critic
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks

    def __iter__(self) -> Iterator[Callable[[Tensor], Tensor]]:
        values: list[Tensor] = []

        def value(i: int, x: Tensor) -> Tensor:
            if i == 0:
                values.extend(side_by_side(*(partial(network, x) for network in self.networks)))
            return values[i]

        return (partial(value, i) for i in range(len(self.networks)))


class RecordedNFACUpdate(RecordedOffPolicyUpdate):
    """The updates of NFAC, those that move the actor and those that do not."""

    statistics = (_BatchNorm,)  # its networks' passes are one after the other

    settings = (*RecordedOffPolicyUpdate.settings, "drop_atoms", "actor_pessimism", "distortion")

    def __call__(self, model: Any, batch: Any, move_targets: bool) -> Tensor:
        """See :func:`flowrl.algorithms.nfac.update.update`; the batch may lie on the CPU."""

        def update(scale: Tensor, *parts: Any) -> Tensor:
            return model._torch_update(type(batch)(*parts), move_targets, scale)

        noise = getattr(model.critic.head, "noise", None)
        return self._run((move_targets, model.moves_actor, noise), update, torch.tensor(model.reward_scale), *batch)


class RecordedNFQUpdate(RecordedOffPolicyUpdate):
    """The updates of NFQ."""

    settings = (*RecordedOffPolicyUpdate.settings, "max_grad_norm", "cql_weight", "importance_floor")


class RecordedPPOUpdate(RecordedUpdate):
    """The updates of PPO, minibatch after minibatch."""

    settings = ("normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm")

    def optimizers(self, model: Any) -> list[Optimizer]:
        return [model.policy.optimizer]

    def why_not(self, model: Any) -> str:
        if not is_array_backed(model.rollout_buffer):
            return f"the rollout lies in a {type(model.rollout_buffer).__name__}, not in arrays"
        if model.target_kl is not None:
            return "target_kl asks for a divergence before every step"
        return super().why_not(model)

    def __call__(
        self, model: Any, rollout: Any, size: int, clip_range: float, clip_range_vf: float | None
    ) -> list[dict[str, Tensor]]:
        """
        An epoch.

        :param model: PPO
        :param rollout: its steps, shuffled
        :param size: of a minibatch
        :param clip_range: of the ratio
        :param clip_range_vf: of the change in values; None: it is not clipped
        :return: of each minibatch what SB3 logs, by its names
        """

        def update(*parts: Any) -> Tensor:
            *of_batch, clip, clip_vf = parts
            loss, row = ppo.losses(model, type(rollout)(*of_batch), clip, clip_vf)
            row["loss"] = ppo.descend(model, loss)
            return torch.stack([row[name] for name in ppo.LOGS])

        clips = [None if clip is None else torch.tensor(clip) for clip in (clip_range, clip_range_vf)]
        rows = [self._run(None, update, *parts, *clips) for parts in zip(*(part.split(size) for part in rollout))]
        return [dict(zip(ppo.LOGS, row)) for row in torch.stack(rows)]
