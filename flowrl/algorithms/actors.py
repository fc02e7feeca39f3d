"""The actor's part of a SAC update: actions for s with a gradient and for s' without, and the way back."""

from typing import Any

import torch
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

from flowrl.algorithms.flat import FlatParameters
from flowrl.algorithms.networks import NetworkStack, PlainNetwork, Product, is_stateless
from flowrl.policies.actor import FlowActorMixin

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

    def sample(self, obs: Any, next_obs: Any) -> tuple[Sample, Sample]:
        """
        :param obs: preprocessed states s, batch first
        :param next_obs: states s'
        :return: actions for s, which :meth:`backward` goes back through, and for s'
        """
        self.sampled = self.actor.action_log_prob(obs)
        with torch.no_grad():
            next_sampled = self.actor.action_log_prob(next_obs)
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
        self.stack = NetworkStack([actor_layers(actor, network)], flat, product, network.activation)

    def sample(self, obs: Any, next_obs: Any) -> tuple[Sample, Sample]:
        """See :meth:`AutogradActor.sample`."""
        features = [self.actor.extract_features(part, self.actor.features_extractor) for part in (obs, next_obs)]
        batch = len(features[0])
        with torch.no_grad():
            self.inputs = self.stack.hidden(torch.cat(features))
            latent = self.inputs[-1]
            parameters, next_parameters = self._parameters(latent[:, :batch]), self._parameters(latent[:, batch:])
        self.parameters = parameters.requires_grad_()
        self.sampled = self._draw(self.parameters)
        with torch.no_grad():
            next_sampled = self._draw(next_parameters)
        return (self.sampled[0].detach(), self.sampled[1].detach()), next_sampled

    def backward(self, to_action: Tensor, to_log_prob: Tensor) -> None:
        """See :meth:`AutogradActor.backward`."""
        super().backward(to_action, to_log_prob)
        with torch.no_grad():
            to_output: Tensor = self.parameters.grad  # type: ignore[assignment]
            batch = len(to_output)
            inputs = [layer_input[:, :batch] for layer_input in self.inputs]
            self.stack.gradients(to_output.unsqueeze(0), inputs)

    def _parameters(self, latent: Tensor) -> Tensor:
        """The last layer, the batch contiguous, as the flow's C kernel reads it: shape ``(batch, parameters)``."""
        weight, bias = self.stack.weights[-1], self.stack.biases[-1]
        return self.stack.product(weight, latent.transpose(1, 2)).add_(bias.transpose(1, 2))[0].t()

    def _draw(self, parameters: Tensor) -> Sample:
        distribution = self.actor.flow.from_parameters(parameters)
        return self.actor.action_dist.proba_distribution(distribution).rsample_and_log_prob()


def actor_network(actor: Any) -> PlainNetwork | None:
    """The network of a flow actor that can be a :class:`StackedActor`; None of any other actor."""
    if not isinstance(actor, FlowActorMixin) or actor.flow.is_foreign:
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
