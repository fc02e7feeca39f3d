"""What a flow policy cannot be, it refuses at once, in one sentence that tells the cure."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.environments import Aim
from tests.models import ALGORITHMS, ON_POLICY, build, build_policy


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_discrete_actions_are_refused(algorithm):
    with pytest.raises(ValueError, match=r"continuous action space.*got Discrete\(2\).*MlpPolicy"):
        build(algorithm, gym.make("CartPole-v1"))


def test_discrete_actions_are_refused_by_the_policy_alone():
    with pytest.raises(ValueError, match="continuous action space"):
        build_policy("SAC", action_space=spaces.Discrete(3))


@pytest.mark.parametrize("dtype, edge", [(np.float32, 3e38), (np.float16, 4e4), (np.float64, 1e308)])
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_box_whose_width_overflows_is_refused(algorithm, dtype, edge):
    box = spaces.Box(dtype(-1.0), np.array([1.0, 1.0], dtype), dtype=dtype)
    build_policy(algorithm, action_space=box)
    box = spaces.Box(np.array([-1.0, -edge], dtype), np.array([1.0, edge], dtype), dtype=dtype)
    with pytest.raises(
        ValueError, match=rf"too wide at index \[1\].* overflows {np.dtype(dtype)}.*squash_output=False"
    ):
        build_policy(algorithm, action_space=box)


def test_a_box_whose_width_overflows_is_one_to_clip_to():
    policy = build_policy("PPO", action_space=spaces.Box(-3e38, 3e38, (2,)), squash_output=False)
    actions, _ = policy.predict(np.zeros((50, 3), np.float32))
    assert 0.5 < actions.std() < 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_unknown_flow_names_the_nearest(algorithm):
    with pytest.raises(ValueError, match=r"Unknown flow 'realnpv'. Did you mean 'realnvp'.*Available: .*nsf"):
        build(algorithm, policy_kwargs=dict(flow="realnpv"))


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_on_policy_policies_say_where_observations_are_normalised(algorithm):
    with pytest.raises(ValueError, match="wrap the environment in VecNormalize"):
        build(algorithm, policy_kwargs=dict(normalize_observations=True))


@pytest.mark.parametrize("flow", [3, 0.5])
def test_a_flow_that_is_neither_name_nor_builder(flow):
    with pytest.raises(ValueError, match="flow must be a name or a builder"):
        build("SAC", policy_kwargs=dict(flow=flow))


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_an_unknown_option_names_the_flow_and_the_option(algorithm):
    with pytest.raises(ValueError, match=r"'nsf'.*bings"):
        build(algorithm, policy_kwargs=dict(flow="nsf", flow_kwargs=dict(bings=4)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nan_observations_are_an_error_that_names_them(algorithm):
    """Raised where the action would go to the environment; the model is whole afterwards."""
    model = build(algorithm)
    good = np.zeros(3, np.float32)
    expected, _ = model.predict(good, deterministic=True)
    with pytest.raises(ValueError, match=r"not finite.*NaN.*VecCheckNan"):
        model.predict(np.full(3, np.nan, np.float32))
    np.testing.assert_array_equal(model.predict(good, deterministic=True)[0], expected)
    model.learn(128)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_an_environment_that_breaks_midway_stops_training(algorithm):
    env = Broken()
    model = build(algorithm, env, **(dict(learning_starts=0) if algorithm == "SAC" else {}))
    with pytest.raises(ValueError, match=r"not finite.*NaN"):
        model.learn(128)
    assert np.isfinite(model.predict(np.zeros(3, np.float32))[0]).all()
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    model.set_env(Aim())
    if algorithm == "SAC":
        model.replay_buffer.reset()  # which SB3 has put the NaN into
    model.learn(128)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_dictionaries_of_observations_need_the_policy_for_them(algorithm):
    with pytest.raises(ValueError, match="You must use `FlowMultiInputPolicy`.*, not Flow"):
        build(algorithm, Aim(observation="dict"))


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize("low, high", [(0.5, 0.5), (0.0, 1e-45)])
def test_a_box_without_width_is_refused(algorithm, low, high):
    with pytest.raises(ValueError, match=r"no width at index \[1\] \(low == high"):
        build(algorithm, Aim(low=(-1.0, low), high=(1.0, high)))


def test_nan_is_found_without_a_squash_too():
    """`np.clip` would hand it on to the environment."""
    model = build("PPO", policy_kwargs=dict(squash_output=False))
    with pytest.raises(ValueError, match="not finite"):
        model.predict(np.full(3, np.nan, np.float32))


class Broken(Aim):
    """Its sixth observation is NaN."""

    def _observe(self):
        observation = super()._observe()
        return np.full_like(observation, np.nan) if self.time == 5 else observation
