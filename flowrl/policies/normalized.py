"""Observations normalised within the policy, by statistics that are saved with it: `predict` needs no wrapper."""

from typing import Any, TypeGuard

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from flowrl.networks import DictNormalization, RunningNormalization

Normalization = RunningNormalization | DictNormalization


def make_normalization(space: spaces.Space) -> Normalization | None:
    """
    :param space: of observations
    :return: statistics of those that are vectors of numbers; None where none is
    """
    if isinstance(space, spaces.Dict):
        shapes = {key: part.shape for key, part in space.items() if _is_vector(part)}
        return DictNormalization(shapes) if shapes else None
    return RunningNormalization(space.shape) if _is_vector(space) else None


def _is_vector(space: spaces.Space) -> TypeGuard[spaces.Box]:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


class NormalizedExtractor(BaseFeaturesExtractor):
    """
    A features extractor of normalised observations.

    :param extractor: of observations that SB3 has preprocessed
    :param normalization: that of the policy, which all of its extractors share
    """

    def __init__(self, extractor: BaseFeaturesExtractor, normalization: Normalization):
        super().__init__(extractor._observation_space, extractor.features_dim)
        self.extractor = extractor
        self.normalization = normalization

    def forward(self, observations: Any) -> Tensor:
        return self.extractor(self.normalization(observations))


class NormalizedPolicyMixin:
    """
    Gives a policy one running normalisation in front of all of its networks.

    An algorithm counts in what is observed, once a step, as those of `flowrl.algorithms` do.

    :param normalize_observations: whether vectors of numbers are; in a dictionary each by itself. Images, which are
        divided by 255, and numbers of a set, which become one-hot codes, are left as they are
    :raises ValueError: in training, where no algorithm has counted any
    """

    observation_space: Any
    normalization: Normalization | None
    """Where observations are normalised: of those that are vectors; None if none is."""

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        *args: Any,
        normalize_observations: bool = False,
        **kwargs: Any,
    ):
        self.normalize_observations = normalize_observations
        self.normalization = None  # of the instance: a class's attribute would hide the module of that name
        super().__init__(observation_space, action_space, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()  # type: ignore[misc]
        return parameters | dict(normalize_observations=self.normalize_observations)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        extractor = super().make_features_extractor()  # type: ignore[misc]
        if not self.normalize_observations:
            return extractor
        if self.normalization is None:
            self.normalization = make_normalization(self.observation_space)
        return extractor if self.normalization is None else NormalizedExtractor(extractor, self.normalization)

    def set_training_mode(self, mode: bool) -> None:
        """See SB3's `BasePolicy.set_training_mode`."""
        if mode and self.normalize_observations and self.normalization is not None and self.normalization.count == 0:
            raise ValueError(
                "normalize_observations has observed nothing: train with an algorithm of flowrl.algorithms, which "
                "counts observations in, or leave it out and wrap the environment in VecNormalize."
            )
        super().set_training_mode(mode)  # type: ignore[misc]
