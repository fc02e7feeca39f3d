"""Flow policies for PPO, A2C and TRPO: SB3's actor-critic policies with a flow where the Gaussian was.

The policy emits, stores and scores the action *before* the tanh, u; `unscale_action` takes it to the environment. The
log-probs are those of the executed action. To score environment actions yourself, call `log_prob(obs, env_action)`.
"""

from functools import partial
from typing import Any

from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from flowrl.compiled import compiled_act
from flowrl.flows.flow import Flow
from flowrl.flows.recipes import AnyFlow
from flowrl.policies.action_box import check_flow_arguments, refuse_noise_layers
from flowrl.policies.action_distribution import FlowDistribution
from flowrl.policies.density import ActionDensity
from flowrl.policies.pre_squash import PreSquashMixin
from flowrl.policies.training_mode import TrainingModeMixin
from flowrl.policies.trial import try_in_training

GAIN = 0.125
"""Of the flow's scale and shape, see :class:`flowrl.Flow`: a policy gradient is noisy, and a learning rate that suits a
Gaussian, whose log-std depends on no state, moves them too far in a step (docs/policies.md has what it does)."""

BEFORE_AFFINE = (
    'Where no flow is named it is "affine"; it was "triangular" before: give policy_kwargs=dict(flow="triangular") and '
    "what else there is; to load a model, load(path, custom_objects=dict(policy_kwargs=...))."
)
"""What models and scripts need that were made before, and name no flow."""

OVERRIDDEN = ("get_distribution", "_get_action_dist_from_latent", "extract_features")  # if set on an instance


class FlowActorCriticMixin(PreSquashMixin, TrainingModeMixin, ActionDensity):
    """Turns an `ActorCriticPolicy` (SB3 2.9, common/policies.py) into a flow policy.

    :param flow: see :class:`flowrl.Flow`; None: :attr:`default_flow`
    :param flow_kwargs: options of the recipe, and of :class:`flowrl.Flow`, whose ``context_gain`` and
        ``conditioner_gain`` are 1/8 here
    :param deterministic_action: ``"mean"``, ``"average"`` or ``"densest"``, see :class:`FlowDistribution`
    :param n_candidates: how many samples are averaged, or compared with the mean
    :param squash_output: whether actions are squashed by tanh onto the action box; False: SB3 clips them to it, as it
        does a Gaussian's, and the log-prob is that of the action before the clip. Its deviation is in the box's units
        then, and the flow's ``log_std_max`` at least SB3's ``log_std_init``. (A policy by itself never squashes an
        unbounded box, which SB3's algorithms refuse.)
    :raises ValueError: see :func:`flowrl.policies.action_box.check_flow_arguments` and
        :func:`flowrl.policies.trial.try_in_training`; for ``normalize_observations``
    """

    action_net: Flow
    action_dist: FlowDistribution
    default_flow: AnyFlow = "affine"
    """With other shapes PPO learns locomotion more slowly, see docs/ppo.md."""
    _affine_by_default = False

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        *args: Any,
        flow: AnyFlow | None = None,
        flow_kwargs: dict[str, Any] | None = None,
        deterministic_action: str = "mean",
        n_candidates: int = 16,
        squash_output: bool = True,
        use_sde: bool = False,
        **kwargs: Any,
    ):
        refuse_noise_layers(kwargs)
        if "normalize_observations" in kwargs:
            raise ValueError(
                "normalize_observations is for flowrl.algorithms.SAC, NFQ and NFAC: for PPO, A2C, TRPO and SNF wrap "
                "the environment in VecNormalize."
            )
        self._affine_by_default = flow is None and self.default_flow == "affine"
        flow = self.default_flow if flow is None else flow
        check_flow_arguments(
            action_space, use_sde, flow, deterministic_action, n_candidates, critic=False, squash=squash_output
        )
        # Before _build, which super().__init__ calls
        self.flow_spec: dict[str, Any] = dict(
            flow=flow,
            flow_kwargs=flow_kwargs,
            deterministic_action=deterministic_action,
            n_candidates=n_candidates,
        )
        self._squash = squash_output and action_space.is_bounded()
        try:
            super().__init__(observation_space, action_space, *args, **kwargs)
        except ValueError as error:
            if not (self._affine_by_default and "could not be built with options" in str(error)):
                raise
            raise ValueError(f"{error} {BEFORE_AFFINE}") from error
        self._squash_output = self._squash

    def _build(self, lr_schedule: Schedule) -> None:
        """SB3 builds its Gaussian, then the flow takes over the head's start values and its place in the optimiser."""
        super()._build(lr_schedule)
        self.action_dist = self._make_action_dist()
        flow = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
        try_in_training(flow, scores=True)
        if not flow.is_external:
            given = self.flow_spec["flow_kwargs"] or {}
            if "context_gain" not in given:
                flow.set_context_gain(GAIN)
            if "conditioner_gain" not in given and flow.conditioners:
                flow.set_conditioner_gain(GAIN)
            if "log_std_max" not in given and not self._squash:
                flow.log_std_max = max(flow.log_std_max, float(self.log_std_init))
            flow.set_gaussian(self.action_net.weight, self.action_net.bias, None, self.log_std)  # type: ignore[arg-type]
        del self.log_std  # SB3 would log it as train/std
        self.action_net = flow
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),
            **self.optimizer_kwargs,
        )

    def _make_action_dist(self) -> FlowDistribution:
        return FlowDistribution(
            get_action_dim(self.action_space), squash=self._squash, pre_squash=True, **self.flow_spec
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.flow_spec | dict(squash_output=self._squash)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's.

        :raises RuntimeError: for other parameters; where the flow was not named, and theirs is another, with the cure
        """
        try:
            return super().load_state_dict(*args, **kwargs)  # type: ignore[misc]
        except RuntimeError as error:
            of_the_flow_alone = "action_net.context_map" in str(error) and "mlp_extractor." not in str(error)
            if not (self._affine_by_default and of_the_flow_alone):
                raise
            raise RuntimeError(f"{error}\nThese are the parameters of another flow. {BEFORE_AFFINE}") from error

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions as stored, values and log-probs, as `ActorCriticPolicy.forward`."""
        compiled = self._compiled_act(obs, deterministic, with_values=True)
        if compiled is None:
            return super().forward(obs, deterministic)  # type: ignore[misc]
        return compiled.actions.view(-1, *self.action_space.shape), compiled.values, compiled.log_prob

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        compiled = self._compiled_act(observation, deterministic)
        return super()._predict(observation, deterministic) if compiled is None else compiled.actions  # type: ignore[misc]

    def _compiled_act(self, obs: Any, deterministic: bool, with_values: bool = False) -> Any:
        """See :func:`flowrl.compiled.compiled_act`; None too where a subclass acts in its own way."""
        cls: Any = type(self)
        extractor = self.mlp_extractor
        if (
            cls.get_distribution is not ActorCriticPolicy.get_distribution
            or cls._get_action_dist_from_latent is not FlowActorCriticMixin._get_action_dist_from_latent
            or cls.extract_features is not ActorCriticPolicy.extract_features
            or not vars(self).keys().isdisjoint(OVERRIDDEN)
            or type(extractor) is not MlpExtractor
            or extractor._forward_hooks
            or extractor._forward_pre_hooks
            or not vars(extractor).keys().isdisjoint(("forward", "forward_actor", "forward_critic"))
            or (deterministic and self.action_dist.deterministic_action != "mean")
            or (with_values and not self.share_features_extractor)
        ):
            return None
        features = partial(BasePolicy.extract_features, self, obs, self.pi_features_extractor)  # type: ignore
        value = (extractor.value_net, self.value_net) if with_values else None
        return compiled_act(self.action_net, self.action_dist, extractor.policy_net, features, deterministic, value)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> FlowDistribution:
        return self.action_dist.proba_distribution(self.action_net(latent_pi))


class FlowActorCriticPolicy(FlowActorCriticMixin, ActorCriticPolicy):
    """PPO's, A2C's and TRPO's policy with a flow."""


class FlowActorCriticCnnPolicy(FlowActorCriticMixin, ActorCriticCnnPolicy):
    """PPO's, A2C's and TRPO's image policy with a flow."""


class FlowMultiInputActorCriticPolicy(FlowActorCriticMixin, MultiInputActorCriticPolicy):
    """PPO's, A2C's and TRPO's policy for dictionaries of observations, with a flow."""
