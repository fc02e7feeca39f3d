"""The actor's part of a SAC update: actions for s with a gradient and for s' without, and the way back."""

from typing import Any

import torch
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from flowrl.kernels.flat import FlatParameters
from flowrl.kernels.networks import Product, is_stateless, network_stack
from flowrl.kernels.plain_network import PlainNetwork
from flowrl.policies.off_policy import FlowActorMixin

Sample = tuple[Tensor, Tensor]
"""Actions, shape ``(batch, d)``, and their log-probs, shape ``(batch,)``."""


class AutogradActor:
    """
    Any actor of SAC's form, by autograd.

    :param actor: the actor
    :param flat: its parameters
    """

    def __init__(self, actor: Any, flat: FlatParameters) -> None:
        self.actor, self.flat = actor, flat
        self.sampled: Any = None

    def sample(self, batch: ReplayBufferSamples, features: Tensor, next_features: Tensor) -> tuple[Sample, Sample]:
        """
        :param batch: of transitions
        :param features: what a features extractor without state makes of the states s
        :param next_features: and of s'
        :return: actions for s, which :meth:`backward` goes back through, and for s'
        """
        self.sampled = self.actor.action_log_prob(batch.observations)
        with torch.no_grad():
            next_sampled = self.actor.action_log_prob(batch.next_observations)
        return (self.sampled[0].detach(), self.sampled[1].detach()), next_sampled

    def backward(self, to_action: Tensor, to_log_prob: Tensor) -> None:
        """Write the parameters' gradients.

        :param to_action: the loss's gradient in the actions for s
        :param to_log_prob: and in their log-probs
        """
        self.flat.gradient.zero_()
        sampled, self.sampled = self.sampled, None  # the graph goes with it
        torch.autograd.backward(sampled, (to_action, to_log_prob))


class StackedActor(AutogradActor):
    """
    A flow actor whose network is a stack: one pass for s and s' together, and autograd for the flow alone.

    :param actor: the actor
    :param flat: its parameters
    :param network: its network; the flow's context map is one more layer
    :param product: matrix product of the network
    """

    def __init__(self, actor: Any, flat: FlatParameters, network: PlainNetwork, product: Product) -> None:
        super().__init__(actor, flat)
        self.stack = network_stack([actor_layers(actor, network)], flat, product, network.activation)

    def sample(self, batch: ReplayBufferSamples, features: Tensor, next_features: Tensor) -> tuple[Sample, Sample]:
        """See :meth:`AutogradActor.sample`."""
        with torch.no_grad():
            (outputs,), self.passed = self.stack.forward(torch.cat((features, next_features)))
        parameters, next_parameters = outputs.split(len(features))
        self.parameters = parameters.requires_grad_()
        self.sampled = self._draw(self.parameters)
        with torch.no_grad():
            next_sampled = self._draw(next_parameters)
        return (self.sampled[0].detach(), self.sampled[1].detach()), next_sampled

    def backward(self, to_action: Tensor, to_log_prob: Tensor) -> None:
        """See :meth:`AutogradActor.backward`."""
        super().backward(to_action, to_log_prob)
        with torch.no_grad():
            to_output: Tensor = self.parameters.grad
            self.stack.gradients(to_output.unsqueeze(0), self.passed)

    def _draw(self, parameters: Tensor) -> Sample:
        distribution = self.actor.flow.from_parameters(parameters)
        return self.actor.action_dist.proba_distribution(distribution).rsample_and_log_prob()


def actor_network(actor: Any) -> PlainNetwork | None:
    """The network of a flow actor that can be a :class:`StackedActor`; None of any other actor."""
    if not isinstance(actor, FlowActorMixin) or actor.flow.is_external:
        return None
    cls: Any = type(actor)
    overridden = cls.action_log_prob is not FlowActorMixin.action_log_prob or (
        cls.get_distribution is not FlowActorMixin.get_distribution
        or cls.extract_features is not BaseModel.extract_features
    )
    if overridden or not is_stateless(actor.features_extractor):  # type: ignore[attr-defined]
        return None
    network = PlainNetwork.read(actor.latent_pi)  # type: ignore[attr-defined]
    return network if network is not None and network.active_end else None


def actor_layers(actor: Any, network: PlainNetwork) -> list[nn.Linear]:
    """The layers of a flow actor down to the flow's parameters."""
    return [*network.layers, actor.flow.context_map]
