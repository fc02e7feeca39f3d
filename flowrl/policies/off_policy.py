"""Flow actors for SAC and its kin (TQC, CrossQ): SB3's own actor and policy with a flow where the Gaussian was."""

from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac import policies as sac
from torch import nn

from flowrl.compiled import compiled_act
from flowrl.flows.distribution import highest
from flowrl.flows.recipes import DEFAULT_FLOW, AnyFlow
from flowrl.policies.action_box import check_flow_arguments, into_box, refuse_noise_layers
from flowrl.policies.action_distribution import FlowDistribution, check_finite
from flowrl.policies.density import ActionDensity
from flowrl.policies.normalized import NormalizedPolicyMixin
from flowrl.policies.training_mode import TrainingModeMixin
from flowrl.policies.trial import try_in_training


class FlowActorMixin:
    """Turns an `Actor` of SAC's form (SB3 2.9: sac, tqc, crossq `policies.Actor`) into a flow actor.

    :param flow: see :class:`flowrl.Flow`
    :param flow_kwargs: options of the recipe, and of :class:`flowrl.Flow`
    :param deterministic_action: ``"mean"``, ``"average"``, ``"densest"`` or ``"best"``, see :class:`FlowDistribution`
    :param n_candidates: how many samples are averaged, or compared with the mean
    """

    mu: nn.Linear
    log_std: nn.Linear
    action_dist: FlowDistribution
    pre_squash = False
    """Whether it emits and scores actions before the tanh."""
    scores_actions = False
    """Whether its algorithm asks for log-probs of given actions."""

    def __init__(
        self,
        *args: Any,
        flow: AnyFlow = DEFAULT_FLOW,
        flow_kwargs: dict[str, Any] | None = None,
        deterministic_action: str = "mean",
        n_candidates: int = 16,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.flow_spec: dict[str, Any] = dict(
            flow=flow,
            flow_kwargs=flow_kwargs,
            deterministic_action=deterministic_action,
            n_candidates=n_candidates,
        )
        self.action_dist = FlowDistribution(
            get_action_dim(self.action_space), pre_squash=self.pre_squash, **self.flow_spec
        )
        self.flow = self.action_dist.proba_distribution_net(self.mu.in_features)
        try_in_training(self.flow, self.scores_actions)
        if not self.flow.is_external:
            self.flow.set_gaussian(self.mu.weight, self.mu.bias, self.log_std.weight, self.log_std.bias)
        del self.mu, self.log_std

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.flow_spec

    def get_distribution(self, obs: PyTorchObs) -> FlowDistribution:
        features = self.extract_features(obs, self.features_extractor)
        return self.action_dist.proba_distribution(self.flow(self.latent_pi(features)))

    def get_action_dist_params(self, obs: PyTorchObs) -> Any:
        raise NotImplementedError("A flow has no mean and log-std to return: use get_distribution(obs).")

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        compiled = self._compiled_act(obs, deterministic)
        return compiled.actions if compiled else self.get_distribution(obs).get_actions(deterministic=deterministic)

    def _compiled_act(self, obs: PyTorchObs, deterministic: bool) -> Any:
        """None where only torch can act: by a distribution of a subclass's own, or the best of several candidates."""
        if type(self).get_distribution is not FlowActorMixin.get_distribution or "get_distribution" in vars(self):
            return None
        if deterministic and self.action_dist.deterministic_action != "mean":
            return None
        features = partial(self.extract_features, obs, self.features_extractor)
        return compiled_act(self.flow, self.action_dist, self.latent_pi, features, deterministic)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor]:
        return self.get_distribution(obs).rsample_and_log_prob()


class FlowActorPolicyMixin(NormalizedPolicyMixin, TrainingModeMixin, ActionDensity):
    """Turns a policy of SAC's form (SB3 2.9: `SACPolicy`, `TQCPolicy`, `CrossQPolicy`) into a flow policy.

    :param flow: see :class:`flowrl.Flow`; None: :attr:`default_flow`
    :param flow_kwargs: options of the recipe, and of :class:`flowrl.Flow`
    :param deterministic_action: ``"mean"``, ``"average"``, ``"densest"`` or ``"best"`` (by Q, the lowest of the
        critics), see :class:`FlowDistribution`
    :param n_candidates: how many samples are averaged, or compared with the mean
    :param normalize_observations: by running statistics within the policy, see
        :class:`flowrl.policies.normalized.NormalizedPolicyMixin`
    :raises ValueError: see :func:`flowrl.policies.action_box.check_flow_arguments` and
        :func:`flowrl.policies.trial.try_in_training`
    """

    actor_class: type
    default_flow: AnyFlow = DEFAULT_FLOW

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        *args: Any,
        flow: AnyFlow | None = None,
        flow_kwargs: dict[str, Any] | None = None,
        deterministic_action: str = "mean",
        n_candidates: int = 16,
        use_sde: bool = False,
        **kwargs: Any,
    ):
        refuse_noise_layers(kwargs)
        flow = self.default_flow if flow is None else flow
        check_flow_arguments(action_space, use_sde, flow, deterministic_action, n_candidates, critic=True)
        # Before _build, which super().__init__ calls
        self.flow_spec: dict[str, Any] = dict(
            flow=flow,
            flow_kwargs=flow_kwargs,
            deterministic_action=deterministic_action,
            n_candidates=n_candidates,
        )
        super().__init__(observation_space, action_space, *args, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return self.actor_class(**kwargs, **self.flow_spec).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.flow_spec

    def get_distribution(self, obs: PyTorchObs) -> FlowDistribution:
        return self.actor.get_distribution(obs)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        if not deterministic or self.flow_spec["deterministic_action"] != "best":
            return super()._predict(observation, deterministic)
        actions, _ = self.get_distribution(observation).distribution.candidates(self.flow_spec["n_candidates"])
        return check_finite(highest(actions, self.lowest_q(observation, actions)))

    def lowest_q(self, observation: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """
        :param observation: preprocessed observations, batch first
        :param actions: in [-1, 1], several for each, shape ``(n, batch, d)``
        :return: the lowest of the critics, shape ``(n, batch)``
        """
        n, batch, d = actions.shape
        q = self.critic(_repeated(observation, n), actions.reshape(n * batch, d))
        q = torch.cat(q, 1) if isinstance(q, tuple) else q.mean(-1)  # (n batch, critics); TQC's are means of quantiles
        return q.amin(1).view(n, batch)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        return into_box(super().unscale_action(scaled_action), self.action_space)


def _repeated(obs: PyTorchObs, n: int) -> PyTorchObs:
    """A batch of observations n times, one after the other."""
    if isinstance(obs, dict):
        return {key: part.repeat(n, *(1 for _ in part.shape[1:])) for key, part in obs.items()}
    return obs.repeat(n, *(1 for _ in obs.shape[1:]))


class FlowActor(FlowActorMixin, sac.Actor):
    """SAC's actor with a flow."""


class FlowPolicy(FlowActorPolicyMixin, sac.SACPolicy):
    """SAC's policy with a flow."""

    actor_class = FlowActor


class FlowCnnPolicy(FlowActorPolicyMixin, sac.CnnPolicy):
    """SAC's image policy with a flow."""

    actor_class = FlowActor


class FlowMultiInputPolicy(FlowActorPolicyMixin, sac.MultiInputPolicy):
    """SAC's policy for dictionaries of observations, with a flow."""

    actor_class = FlowActor
