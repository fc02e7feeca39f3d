"""At observations and with weights that nobody foresaw a policy acts within its box, or says that it cannot."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.environments import Spaces
from tests.models import OFF_POLICY, ON_POLICY, POLICY_FLOWS, build, perturb

EXTREMES = {
    "zero": 0.0,
    "denormal": 1e-42,
    "1e5": 1e5,
    "1e30": 1e30,
    "largest": np.finfo(np.float32).max,
    "NaN": np.nan,
    "infinite": np.inf,
}
BOX = spaces.Box(np.float32([-0.1, -3.0, 7.0]), np.float32([0.3, 1e-3, 1e6]))


def acting(algorithm, flow):
    return build(
        algorithm, Spaces(spaces.Box(-np.inf, np.inf, (3,)), BOX), policy_kwargs=dict(flow=flow, net_arch=[16])
    )


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", EXTREMES)
def test_extreme_observations(kind, deterministic, algorithm, flow):
    model = acting(algorithm, flow)
    perturb(model.policy, 0.1)
    for sign in (1, -1):
        observations = np.full((4, 3), sign * EXTREMES[kind], np.float32)
        try:
            actions, _ = model.predict(observations, deterministic=deterministic)
        except ValueError as error:
            assert "not finite" in str(error) and kind in ("NaN", "infinite", "largest", "1e30")
        else:
            assert kind != "NaN"
            assert all(BOX.contains(action) for action in actions)


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", [*OFF_POLICY, *ON_POLICY])
@pytest.mark.parametrize("scale", [3.0, 100.0])
def test_saturated_weights(scale, algorithm, flow):
    """Log-scales at their bounds, splines of almost no width: actions stay in the box, and their log-probs finite."""
    model = acting(algorithm, flow)
    perturb(model.policy, scale)
    observations = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    actions, _ = model.predict(observations)
    assert all(BOX.contains(action) for action in actions)
    with torch.no_grad():
        distribution = model.policy.get_distribution(model.policy.obs_to_tensor(observations)[0])
        emitted, log_prob = distribution.rsample_and_log_prob()
    assert emitted.isfinite().all() and log_prob.isfinite().all()


@pytest.mark.parametrize("flow", POLICY_FLOWS)
@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_actions_on_the_edge_and_beyond(algorithm, flow):
    model = acting(algorithm, flow)
    perturb(model.policy, 0.1)
    obs = model.policy.obs_to_tensor(np.zeros((1, 3), np.float32))[0]
    with torch.no_grad():
        for edge in (BOX.low, BOX.high):
            assert model.policy.log_prob(obs, torch.as_tensor(edge).unsqueeze(0)).isfinite().all()
        beyond = np.nextafter(BOX.high, np.float32(np.inf))
        assert model.policy.log_prob(obs, torch.as_tensor(beyond).unsqueeze(0)).item() == -np.inf
