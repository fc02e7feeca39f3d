"""Observations normalised within the policy, by statistics that are saved with it: `predict` needs no wrapper."""

from typing import Any

from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from flowrl.networks import RunningNormalization


class NormalizedExtractor(BaseFeaturesExtractor):
    """
    A features extractor of normalised observations.

    :param extractor: of vectors
    :param normalization: that of the policy, which all of its extractors share
    """

    def __init__(self, extractor: BaseFeaturesExtractor, normalization: RunningNormalization):
        super().__init__(extractor._observation_space, extractor.features_dim)
        self.extractor = extractor
        self.normalization = normalization

    def forward(self, observations: Tensor) -> Tensor:
        return self.extractor(self.normalization(observations))


class NormalizedPolicyMixin:
    """
    Gives a policy one running normalisation in front of all of its networks.

    An algorithm counts in what is observed, once a step, as those of `flowrl.algorithms` do.

    :param normalize_observations: whether there is one; of vectors alone, since images are divided by 255
    :raises ValueError: for observations that are no vectors; in training, where no algorithm has counted any
    """

    observation_space: Any
    normalization: RunningNormalization
    """Where observations are normalised; else there is none."""

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        *args: Any,
        normalize_observations: bool = False,
        **kwargs: Any,
    ):
        shape = getattr(observation_space, "shape", None)
        if normalize_observations and (not shape or len(shape) != 1):
            raise ValueError(
                f"normalize_observations is for observations that are vectors, got {observation_space}: leave it out."
            )
        self.normalize_observations = normalize_observations
        super().__init__(observation_space, action_space, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()  # type: ignore[misc]
        return parameters | dict(normalize_observations=self.normalize_observations)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        extractor = super().make_features_extractor()  # type: ignore[misc]
        if not self.normalize_observations:
            return extractor
        if not hasattr(self, "normalization"):
            self.normalization = RunningNormalization(self.observation_space.shape)
        return NormalizedExtractor(extractor, self.normalization)

    def set_training_mode(self, mode: bool) -> None:
        """See SB3's `BasePolicy.set_training_mode`."""
        if mode and self.normalize_observations and self.normalization.count == 0:
            raise ValueError(
                "normalize_observations has observed nothing: train with an algorithm of flowrl.algorithms, which "
                "counts observations in, or leave it out and wrap the environment in VecNormalize."
            )
        super().set_training_mode(mode)  # type: ignore[misc]
