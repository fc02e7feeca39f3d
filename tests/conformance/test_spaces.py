"""Every space of observations and of continuous actions; and a clear word about the others."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.conformance.learners import STEPS
from tests.environments import Spaces

IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (3,))

OBSERVATIONS = {
    "vector": VECTOR,
    "matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "unbounded": spaces.Box(-np.inf, np.inf, (3,)),
    "float64": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "integers": spaces.Box(-5, 5, (3,), np.int32),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(3),
    "MultiBinary of two dimensions": spaces.MultiBinary((2, 2)),
}
DICTIONARIES = {
    "vectors": spaces.Dict(a=VECTOR, b=spaces.Box(0.0, 5.0, (1,))),
    "every kind": spaces.Dict(
        image=IMAGE, vector=VECTOR, number=spaces.Discrete(3), numbers=spaces.MultiDiscrete([2, 2])
    ),
    "float64": spaces.Dict(a=spaces.Box(-1.0, 1.0, (3,), np.float64)),
}
IMAGES = {
    "channels last": IMAGE,
    "channels first": spaces.Box(0, 255, (1, 36, 36), np.uint8),
    "three colours": spaces.Box(0, 255, (36, 36, 3), np.uint8),
}
ACTIONS = {
    "one": spaces.Box(-1.0, 1.0, (1,)),
    "scalar": spaces.Box(-1.0, 1.0, ()),
    "matrix": spaces.Box(-1.0, 1.0, (2, 2)),
    "asymmetric": spaces.Box(np.float32([-2.0, 0.0, 10.0]), np.float32([3.0, 10.0, 10.5])),
    "large": spaces.Box(-1e4, 1e4, (2,)),
    "small": spaces.Box(-1e-4, 1e-4, (2,)),
    "float64": spaces.Box(-1.0, 2.0, (2,), np.float64),
}
NOT_CONTINUOUS = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(3),
}


def trains(learner, env, policy="FlowPolicy", **kwargs):
    """A model that has trained, whose predictions are actions of the environment."""
    model = learner.make(env, policy, **kwargs).learn(STEPS)
    assert model._n_updates > 0
    for deterministic in (True, False):
        action, _ = model.predict(env.observation_space.sample(), deterministic=deterministic)
        assert env.action_space.contains(action)
    return model


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_observations(learner, kind):
    trains(learner, Spaces(OBSERVATIONS[kind]))


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionaries_of_observations(learner, supports, kind):
    extractor = dict(features_extractor_kwargs=dict(cnn_output_dim=4))
    with supports("dictionaries"):
        trains(learner, Spaces(DICTIONARIES[kind]), "FlowMultiInputPolicy", policy_kwargs=extractor)


@pytest.mark.parametrize("kind", IMAGES)
def test_images(learner, supports, kind):
    small = dict(features_extractor_kwargs=dict(features_dim=4))
    with supports("images"):
        trains(learner, Spaces(IMAGES[kind]), "FlowCnnPolicy", policy_kwargs=small)


def test_images_that_are_normalised_already(learner, supports):
    env = Spaces(spaces.Box(0.0, 1.0, (1, 36, 36)))
    kwargs = dict(normalize_images=False, features_extractor_kwargs=dict(features_dim=4, normalized_image=True))
    with supports("images"):
        trains(learner, env, "FlowCnnPolicy", policy_kwargs=kwargs)


@pytest.mark.parametrize("kind", ACTIONS)
def test_actions(learner, kind):
    """The environment itself refuses any that is not in its box, or not of its shape."""
    trains(learner, Spaces(VECTOR, ACTIONS[kind]))


@pytest.mark.parametrize("kind", NOT_CONTINUOUS)
def test_actions_that_are_not_continuous_are_refused(learner, kind):
    if learner.gaussian and not learner.off_policy:
        pytest.skip("SB3's own policies have them")
    with pytest.raises((ValueError, AssertionError), match=r"continuous action space|only supports|as action spaces"):
        learner.make(Spaces(VECTOR, NOT_CONTINUOUS[kind]))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8], ids=["signed", "unsigned"])
def test_actions_of_whole_numbers(learner, supports, dtype):
    """SB3's own policies give the environment numbers that are not whole; what a refusal advises trains."""
    env = Spaces(VECTOR, spaces.Box(0, 5, (2,), dtype))
    with supports("actions of whole numbers"):
        learner.make(env)
    floats = spaces.Box(0.0, 5.0, (2,))
    trains(learner, gym.wrappers.TransformAction(env, lambda action: np.rint(action).astype(dtype), floats))


def test_actions_without_bounds_are_refused(learner):
    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        learner.make(Spaces(VECTOR, spaces.Box(-np.inf, np.inf, (2,))))


def test_the_policy_for_other_observations_names_the_right_one(learner, supports):
    with pytest.raises(ValueError, match=f"You must use `{learner.policy('FlowMultiInputPolicy')}`"):
        learner.make(Spaces(DICTIONARIES["vectors"]))
    with supports("images"), pytest.raises(AssertionError, match="should use NatureCNN only with images"):
        learner.make(Spaces(VECTOR), "FlowCnnPolicy")


def test_an_unknown_policy_is_refused(learner):
    with pytest.raises(ValueError, match="Policy NoPolicy unknown"):
        learner.algorithm("NoPolicy", Spaces(VECTOR))
