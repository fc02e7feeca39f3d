"""Policies of NFAC: SAC's with a flow, whose critics give the return's distribution."""

import inspect
from typing import Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac import policies as sac

from flowrl.critics.return_critic import ReturnCritics
from flowrl.networks import Architecture, perceptron, project
from flowrl.policies.off_policy import FlowActorMixin, FlowActorPolicyMixin


class NFACActor(FlowActorMixin, sac.Actor):
    """
    SAC's actor with a flow and a network of any architecture.

    :param architecture: options of :class:`flowrl.networks.Architecture`
    """

    def __init__(self, *args: Any, architecture: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.architecture_kwargs = architecture
        self.architecture = Architecture(tuple(self.net_arch), **(architecture or {}))
        self.latent_pi = perceptron(self.features_dim, 0, self.architecture, self.activation_fn)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | dict(architecture=self.architecture_kwargs)


class NFACPolicyMixin(FlowActorPolicyMixin):
    """Turns a policy of SAC's form (SB3 2.9) into NFAC's.

    :param critic: ``"flow"``, ``"categorical"``, ``"quantile"`` or ``"scalar"``, see `flowrl.critics.heads`
    :param critic_kwargs: options of that head
    :param architecture: of the critics and of the actor, see :class:`flowrl.networks.Architecture`
    :param actor_architecture: of the actor, where it is another
    """

    actor_class = NFACActor

    def __init__(
        self,
        *args: Any,
        critic: str = "flow",
        critic_kwargs: dict[str, Any] | None = None,
        architecture: dict[str, Any] | None = None,
        actor_architecture: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.critic_spec: dict[str, Any] = dict(critic=critic, critic_kwargs=critic_kwargs, architecture=architecture)
        self.actor_architecture = actor_architecture
        optimizer = kwargs.get("optimizer_class", torch.optim.Adam)
        given = kwargs.get("optimizer_kwargs") or {}
        # One call an update in place of ten for each parameter; not where another form is asked for, which excludes it.
        if "fused" in inspect.signature(optimizer).parameters and not {"foreach", "differentiable"} & set(given):
            kwargs["optimizer_kwargs"] = dict(fused=True) | given
        super().__init__(*args, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        given = self.actor_architecture
        architecture = self.critic_spec["architecture"] if given is None else given
        return self.actor_class(**kwargs, **self.flow_spec, architecture=architecture).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return ReturnCritics(**kwargs, **self.critic_spec).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spec = self.critic_spec | dict(actor_architecture=self.actor_architecture)
        return super()._get_constructor_parameters() | spec

    def project(self) -> None:
        """Give matrices of unit length that length again, after a step of the optimisers."""
        for architecture, networks in (
            (self.critic.architecture, self.critic.networks),
            (self.actor.architecture, [self.actor.latent_pi]),
        ):
            if architecture.unit_norm:
                project(networks)


class NFACPolicy(NFACPolicyMixin, sac.SACPolicy):
    """NFAC's policy."""


class NFACCnnPolicy(NFACPolicyMixin, sac.CnnPolicy):
    """NFAC's policy of images."""


class NFACMultiInputPolicy(NFACPolicyMixin, sac.MultiInputPolicy):
    """NFAC's policy of dictionaries of observations."""
