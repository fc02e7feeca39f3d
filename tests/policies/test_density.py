"""One view of flow and Gaussian densities: the same numbers for the same distribution, whatever its units."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

import flowrl
from flowrl.policies.density import action_log_prob, diagnose
from tests.environments import Aim


@pytest.fixture(scope="module")
def twins():
    """A Gaussian PPO in a box that is not of unit size, and the unsquashed flow that starts as it."""
    gaussian = PPO("MlpPolicy", Aim(), n_steps=16, batch_size=16, seed=0, device="cpu")
    return gaussian.policy, flowrl.from_gaussian(gaussian, "affine").policy


def test_diagnostics_of_a_gaussian_and_of_the_flow_that_starts_as_it_agree(twins):
    obs = torch.zeros(20_000, 3)
    torch.manual_seed(0)
    gaussian, flow = (diagnose(policy, obs) for policy in twins)
    assert flow["entropy"] == pytest.approx(gaussian["entropy"], abs=0.05)
    assert flow["saturation"] == pytest.approx(gaussian["saturation"], abs=0.02)


@torch.no_grad()
def test_one_state_goes_with_many_actions(twins):
    actions = torch.rand(7, 2)
    for policy in twins:
        one, many = (action_log_prob(policy, torch.zeros(n, 3), actions) for n in (1, 7))
        torch.testing.assert_close(one, many)


@torch.no_grad()
def test_actions_of_another_dtype_are_understood():
    class Double(Aim):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(self.action_space.low, self.action_space.high, dtype=np.float64)

    for name in ("nsf", "triangular"):
        model = PPO("FlowPolicy", Double(), n_steps=16, batch_size=16, policy_kwargs=dict(flow=name), device="cpu")
        obs = np.zeros((4, 3), np.float32)
        actions = torch.as_tensor(model.predict(obs)[0], dtype=torch.float64)
        assert model.policy.log_prob(torch.as_tensor(obs), actions).isfinite().all()
