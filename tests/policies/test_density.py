"""One view of flow and Gaussian densities: the same numbers for the same distribution, whatever its units."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC

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
@pytest.mark.parametrize("algorithm", [SAC, PPO])
@pytest.mark.parametrize("low, width", [(1e6, 1.0), (1e9, 1e-3)])
def test_a_box_that_float32_does_not_resolve_has_a_density_in_its_own_precision(algorithm, low, width):
    class Far(Aim):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(low, low + width, (1,), np.float64)

    policy = algorithm("FlowPolicy", Far(), device="cpu").policy
    states, actions = torch.zeros(4_001, 3), low + width * torch.linspace(0, 1, 4_001, dtype=torch.float64)[:, None]
    density = policy.log_prob(states, actions).exp().double()
    assert torch.trapezoid(density, actions[:, 0] - low).item() == pytest.approx(1.0, abs=5e-3)
    assert policy.entropy(states[:1], 1_000).item() == pytest.approx(np.log(width), abs=0.5)


@torch.no_grad()
@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_an_edge_is_inside_in_whatever_precision_it_is_given(algorithm):
    class Rounded(Aim):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(-0.1, 0.1, (1,), np.float64)  # farther out in float32

    policy = algorithm("FlowPolicy", Rounded(), device="cpu").policy
    for dtype in (torch.float32, torch.float64):
        edges = torch.tensor([[-0.1], [0.1]], dtype=dtype)
        assert policy.log_prob(torch.zeros(2, 3), edges).isfinite().all()
        assert (policy.log_prob(torch.zeros(2, 3), edges * 1.001) == -torch.inf).all()


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
