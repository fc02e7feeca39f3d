"""A flow with noise layers: its segments go by C, and nothing that does not know the noise acts or learns for it."""

from functools import partial

import pytest
import torch

from flowrl.algorithms import SNF
from flowrl.flows.path import PathFlow
from flowrl.kernels import compiled_flow, compiled_update
from flowrl.kernels.acting import act
from flowrl.kernels.fused_flow import CompiledTransform
from flowrl.kernels.program import lowered
from tests.environments import Aim
from tests.models import HAS_KERNELS, KERNEL_FLOWS, observations, perturb

pytestmark = pytest.mark.skipif(not HAS_KERNELS, reason="no C compiler: install gcc")


def path_flow(flow, d=3, noise_layers=1, scale=0.2):
    torch.manual_seed(0)
    made = PathFlow(d, 4, flow, noise_layers=noise_layers, **KERNEL_FLOWS[flow])
    perturb(made, scale)
    return made


def scores_and_gradients(flow, context, path):
    context = context.clone().requires_grad_()
    distribution = flow(context)
    torch.manual_seed(1)
    drawn, log_prob, way_back = distribution.rsample_with_way_back((2,))
    scored = distribution.path_log_prob(path)
    loss = scored.sum() + (way_back - log_prob).sum() + drawn.square().sum()
    flow.zero_grad()
    gradients = torch.autograd.grad(loss, [context, *flow.parameters()])
    return [drawn, log_prob, way_back, scored, *gradients]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("flow", KERNEL_FLOWS)
@pytest.mark.parametrize("noise_layers", [1, 2])
def test_segments_in_c_are_those_of_torch(flow, noise_layers, monkeypatch):
    noise_layers = 1 if flow in ("gaussian", "affine") else noise_layers  # which have no more layers
    made = path_flow(flow, noise_layers=noise_layers)
    context = torch.randn(5, 4)
    path = made(context).rsample().detach()
    compiled = [isinstance(transform, CompiledTransform) for transform in made(context).segments]
    assert compiled == [flow != "gaussian", *[True] * noise_layers], "all but a segment without layers"
    in_c = scores_and_gradients(made, context, path)
    monkeypatch.setattr("flowrl.flows.path.compiled_segments", lambda *_: None)
    assert not any(isinstance(transform, CompiledTransform) for transform in made(context).segments)
    for ours, expected in zip(in_c, scores_and_gradients(made, context, path), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-9)


def test_a_hook_or_another_layer_is_noticed():
    made = path_flow("nsf")
    context = torch.randn(5, 4)
    made(context)
    seen = []
    hook = made.layers[0].register_forward_hook(lambda *_: seen.append(1))
    made(context)
    assert seen
    hook.remove()
    path = made(context).rsample().detach()
    before = made(context).path_log_prob(path)
    other = path_flow("nsf", scale=0.4)
    made.layers[2] = other.layers[2]
    assert not torch.allclose(made(context).path_log_prob(path), before)
    made.layers[1] = other.layers[1]  # the noise
    made(context)


def test_no_form_of_a_whole_flow_takes_one_with_noise():
    model = SNF("FlowPolicy", Aim(), policy_kwargs=dict(flow="nsf", net_arch=[16]), device="cpu")
    policy = model.policy
    flow = policy.action_net
    assert lowered(flow) is None and compiled_flow(flow, torch.zeros(2, flow.context_map.out_features)) is None
    update, reason = compiled_update(model)
    assert update is None and "layers that the kernel does not know" in reason
    with torch.no_grad():
        network = policy.mlp_extractor.policy_net
        assert act(flow, policy.action_dist, network, partial(observations, 4), False) is None
