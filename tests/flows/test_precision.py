"""A flow is evaluated in the precision of its weights, whatever the networks before it run in."""

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

from flowrl import Flow
from flowrl.flows.path import PathFlow
from tests.adapters.external_flows import EXTERNAL
from tests.models import FLOW_KWARGS, FLOWS, POLICY_FLOWS, perturb


@pytest.mark.parametrize("d", [2, 17])
@pytest.mark.parametrize("name", FLOWS)
def test_autocast_changes_nothing(name, d):
    flow = Flow(d, 3, name, **FLOW_KWARGS.get(name, {}))
    perturb(flow, 0.1)
    context, value = torch.randn(5, 3), torch.randn(5, d)
    expected = flow(context).log_prob(value)
    torch.manual_seed(0)
    sample = flow(context).rsample_and_log_prob()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(flow(context).log_prob(value), expected, rtol=0, atol=0)
        torch.manual_seed(0)
        torch.testing.assert_close(flow(context).rsample_and_log_prob(), sample, rtol=0, atol=0)


def test_autocast_does_not_change_the_way_back_of_a_path():
    """Whose kernels have networks of their own."""
    flow = PathFlow(2, 3)
    perturb(flow, 0.3)
    context = torch.randn(5, 3)
    torch.manual_seed(0)
    expected = flow(context).rsample_with_way_back()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(flow(context).rsample_with_way_back(), expected, rtol=0, atol=0)


def test_features_in_bfloat16_are_taken():
    flow = Flow(2, 3, "triangular")
    context = torch.randn(5, 3).bfloat16()
    assert flow(context).log_prob(torch.zeros(5, 2)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_a_lower_precision_are_refused(dtype):
    with pytest.raises(ValueError, match=r"float32 or float64, and its weights are torch.*autocast"):
        Flow(2, 3, "nsf").to(dtype)(torch.randn(5, 3).to(dtype))


@pytest.mark.parametrize("flow", POLICY_FLOWS)
def test_a_policy_trains_under_autocast(flow):
    """SAC's; SB3's rollouts cannot hold values in bfloat16, whatever the policy."""
    policy_kwargs = dict(flow=flow, net_arch=[16])
    model = SAC("FlowPolicy", "Pendulum-v1", learning_starts=20, seed=0, device="cpu", policy_kwargs=policy_kwargs)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.learn(32)
        action, _ = model.predict(np.zeros(3, np.float32))
    assert action.dtype == np.float32 and np.isfinite(action).all()
    parameters = [*model.policy.parameters()]
    assert all(parameter.isfinite().all() and parameter.dtype == torch.float32 for parameter in parameters)
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize("name", EXTERNAL)
def test_autocast_does_not_change_another_librarys_flow(name):
    flow = Flow(2, 3, EXTERNAL[name])
    perturb(flow, 0.2)
    flow.eval()
    context, value = torch.randn(5, 3), 0.1 * torch.randn(5, 2)
    torch.manual_seed(0)
    expected = flow(context).log_prob(value), *flow(context).rsample_and_log_prob(), flow(context).center()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = flow(context).log_prob(value), *flow(context).rsample_and_log_prob(), flow(context).center()
        assert flow(context.bfloat16()).log_prob(value).dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
