"""Every recipe: a Gaussian at the start, and an exact, normalised, reparameterised density once its parameters move."""

import copy
import inspect
import math
import pickle
import re

import pytest
import torch
from torch.distributions import Independent, Normal

from flowrl import Flow
from flowrl.flows.recipes import find_flow
from flowrl.policies.action_distribution import ActionFlow
from tests.models import FLOW_KWARGS, FLOWS, widen_moderately

CONTEXT = 4
FEW = {"ffjord": dict(steps=8)}  # enough for integrals, which have tolerances of their own
flows = pytest.mark.parametrize("name", FLOWS)
dimensions = pytest.mark.parametrize("d", [1, 2, 3, 17])

pytestmark = pytest.mark.usefixtures("float64")


def perturbed(name: str, d: int, context: int = CONTEXT, spread: float = 0.1, **options) -> Flow:
    """A flow whose parameters have moved, around a base of moderate width."""
    flow = Flow(d, context, name, **FLOW_KWARGS.get(name, {}) | options)
    widen_moderately(flow)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter)
    return flow


@flows
@dimensions
@pytest.mark.parametrize("context", [0, CONTEXT])
def test_starts_as_the_gaussian_of_its_context(name, d, context):
    flow = Flow(d, context, name)
    mean_weight, log_std_weight = 0.1 * torch.randn(2, d, context)
    mean_bias, log_std_bias = 0.3 * torch.randn(2, d)
    flow.set_gaussian(mean_weight, mean_bias, log_std_weight, log_std_bias)
    h = torch.randn(5, context) if context else None
    mean = mean_bias if h is None else h @ mean_weight.T + mean_bias
    log_std = log_std_bias if h is None else h @ log_std_weight.T + log_std_bias
    gaussian = Independent(Normal(mean, log_std.exp()), 1)
    distribution = flow(h)
    x, log_prob = distribution.rsample_and_log_prob((50,))
    torch.testing.assert_close(log_prob, gaussian.log_prob(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(distribution.log_prob(x), gaussian.log_prob(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(distribution.mode(), mean)


@flows
@dimensions
def test_sample_and_log_prob_agree(name, d):
    distribution = perturbed(name, d)(torch.randn(5, CONTEXT))
    x, log_prob = distribution.rsample_and_log_prob((20,))
    assert x.shape == (20, 5, d) and log_prob.shape == (20, 5)
    torch.testing.assert_close(distribution.log_prob(x), log_prob, atol=1e-7, rtol=1e-7)
    assert distribution.rsample((2, 3)).shape == (2, 3, 5, d)
    assert not distribution.sample().requires_grad and distribution.rsample().requires_grad


@flows
@dimensions
def test_log_det_is_that_of_the_jacobian(name, d):
    transform = perturbed(name, d)(torch.randn(6, CONTEXT)).transform
    z = torch.randn(6, d)
    jacobian = torch.autograd.functional.jacobian(lambda z: transform.call_and_ladj(z)[0].sum(0), z)
    error = torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet - transform.call_and_ladj(z)[1]
    assert error.abs().max() < 1e-8


@flows
@pytest.mark.parametrize(("d", "spread"), [(1, 0.0), (1, 0.05), (2, 0.05)], ids=["1-untrained", "1", "2"])
def test_density_of_the_action_integrates_to_one_over_its_box(name, d, spread):
    flow = perturbed(name, d, spread=spread, **FEW.get(name, {}))
    density = ActionFlow(flow(torch.randn(CONTEXT)), squash=True, pre_squash=False)
    # Trapezoids in t with a = tanh(t): nodes crowd towards the edges of the box, where squashed densities live.
    t = torch.linspace(-6, 6, 2_001 if d == 1 else 201)  # u has a deviation of 0.6
    weight = (t[1] - t[0]) * (1 - torch.tanh(t).square())
    axes, weights = torch.meshgrid(*[t] * d, indexing="ij"), torch.meshgrid(*[weight] * d, indexing="ij")
    with torch.no_grad():
        p = density.log_prob(torch.tanh(torch.stack(axes, -1)).flatten(0, -2)).exp()
    total = (p * torch.stack(weights).prod(0).flatten()).sum()
    assert total.item() == pytest.approx(1, abs=1e-3)


@flows
def test_density_integrates_to_one_by_importance_sampling_in_three_dimensions(name):
    torch.manual_seed(1)
    with torch.no_grad():
        distribution = perturbed(name, 3, **FEW.get(name, {}))(torch.randn(CONTEXT))
        spread = distribution.sample((2_000,))
        proposal = Independent(Normal(spread.mean(0), 1.7 * spread.std(0)), 1)
        x = proposal.sample((50_000,))
        ratio = (distribution.log_prob(x) - proposal.log_prob(x)).exp()
    assert abs(ratio.mean() - 1) < 3 * ratio.std() / math.sqrt(len(ratio))


@flows
def test_no_state_at_all_is_a_batch(name):
    flow = Flow(4, 3, name, **FLOW_KWARGS.get(name, {}))
    x, log_prob = flow(torch.zeros(0, 3)).rsample_and_log_prob()
    assert x.shape == (0, 4) and log_prob.shape == (0,)
    assert flow(torch.zeros(0, 3)).log_prob(x).shape == (0,)


@flows
def test_entropy_estimate_is_unbiased_and_differentiable(name):
    flow = perturbed(name, 2)
    context = torch.randn(1, CONTEXT)
    estimate = flow(context).entropy(4_000)
    x = flow(context).sample((4_000,))
    reference = -flow(context).log_prob(x)
    error = (reference.std() * math.sqrt(2 / 4_000)).item()
    assert estimate.item() == pytest.approx(reference.mean().item(), abs=4 * error)
    estimate.sum().backward()
    gradient = flow.context_map.weight.grad[2:4]  # of the log-std, whose growth raises the entropy one to one
    torch.testing.assert_close(gradient, context.expand(2, -1), atol=1e-6, rtol=1e-6)


@flows
def test_reparameterised_gradient_of_an_expectation_is_right(name):
    """d/dtheta E f(x) by the samples' path agrees with finite differences under common random numbers."""
    flow = perturbed(name, 2)
    context = torch.randn(1, CONTEXT)

    def expectation() -> torch.Tensor:
        torch.manual_seed(3)
        x, log_prob = flow(context).rsample_and_log_prob((64,))
        return (x.sin().sum(-1) + 0.1 * log_prob).mean()

    expectation().backward()
    for parameter in flow.parameters():
        direction = torch.randn_like(parameter)
        step = 1e-6 * direction
        with torch.no_grad():
            parameter += step
            above = expectation()
            parameter -= 2 * step
            below = expectation()
            parameter += step
        slope = (above - below) / 2e-6
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope.item(), abs=1e-5, rel=1e-3)


@flows
@pytest.mark.parametrize("d", [1, 3])
def test_every_parameter_gets_a_gradient(name, d):
    flow = perturbed(name, d)
    x, log_prob = flow(torch.randn(32, CONTEXT)).rsample_and_log_prob()
    (log_prob.mean() + x.square().sum()).backward()
    for key, parameter in flow.named_parameters():
        assert parameter.numel() == 0 or parameter.grad.abs().sum() > 0, key


UNROLLED = ("ffjord", "naf", "waveglow")  # solver steps, root finds, layers: tens of seconds to trace
COMBINED = ("nsf-ar", "iaf", "realnvp")  # of layers and bijectors that maf, nsf and glow have too


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in UNROLLED + COMBINED else name for name in FLOWS]
)
def test_compiles_without_a_graph_break(name):
    # Two layers, which may go either way round, of networks of one hidden layer: tracing takes time by the operation.
    small = dict(hidden=(8, 8) if name == "ffjord" else (8,)) | (dict(layers=2) if name != "triangular" else {})
    options = inspect.signature(find_flow(name)).parameters
    flow = perturbed(name, 3, **{option: value for option, value in small.items() if option in options})
    z, value, context = torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, CONTEXT)

    def both_directions(context, z, value):
        distribution = flow(context)
        return *distribution.transform.call_and_ladj(z), distribution.log_prob(value)

    compiled = torch.compile(both_directions, fullgraph=True, backend="eager")
    results = zip(compiled(context, z, value), both_directions(context, z, value), strict=True)
    for traced, eager in results:
        torch.testing.assert_close(traced, eager)
    torch._dynamo.reset()


REFUSED = {"int": (0, -1, 8.0, True), "float": (0.0, -1.0, math.inf, "4"), "Sequence[int]": ([], [0], [8.0], 64)}


@flows
def test_options_of_the_wrong_kind_are_named(name):
    for option, parameter in inspect.signature(find_flow(name)).parameters.items():
        if option not in ("features", "context"):
            for value in REFUSED.get(parameter.annotation, ()):
                named = value[0] if isinstance(value, list) and value else value
                with pytest.raises(ValueError, match=rf"{option}\S* must be .* {re.escape(repr(named))} "):
                    Flow(3, CONTEXT, name, **{option: value})


@flows
def test_copies_and_pickles_after_sampling(name):
    flow = perturbed(name, 3)
    context, x = torch.randn(5, CONTEXT), torch.randn(5, 3)
    flow(context).rsample_and_log_prob()
    for copied in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(copied(context).log_prob(x), flow(context).log_prob(x))
    loaded = Flow(3, CONTEXT, name, **FLOW_KWARGS.get(name, {}))
    loaded.load_state_dict(flow.state_dict())
    torch.testing.assert_close(loaded(context).log_prob(x), flow(context).log_prob(x))


@flows
def test_float32_log_prob_agrees_with_float64(name):
    flow = perturbed(name, 6)
    context = torch.randn(64, CONTEXT)
    x = flow(context).sample()
    precise = flow(context).log_prob(x)
    rough = flow.float()(context.float()).log_prob(x.float())
    torch.testing.assert_close(rough.double(), precise, atol=2e-3, rtol=1e-4)


MIXING = [name for name in FLOWS if name not in ("gaussian", "planar", "radial", "waveglow")]


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("d", [2, 3, 5])
def test_no_feature_is_left_alone(name, d):
    """Every feature's distribution depends on some other one's value."""
    transform = perturbed(name, d, spread=0.3)(torch.randn(CONTEXT)).transform
    jacobian = torch.autograd.functional.jacobian(lambda z: transform.call_and_ladj(z)[0], 0.1 + torch.zeros(d))
    mixing = jacobian - torch.diag(jacobian.diagonal())
    assert ((mixing.abs().sum(0) + mixing.abs().sum(1)) > 1e-6).all()


@pytest.mark.parametrize("hidden", [[2], [5, 3], [16], [17], [40]])
def test_a_narrow_masked_network_leaves_no_feature_out(hidden):
    """Every feature but the last moves one after it, and none before it, with fewer units than features too."""
    flow = perturbed("maf", 17, spread=0.3, layers=1, hidden=hidden)
    transform, order = flow(torch.randn(CONTEXT)).transform, flow.layers[0].order
    points = torch.randn(100, 17)  # many, since a unit may be idle at one
    jacobian = torch.autograd.functional.jacobian(lambda x: transform.inverse_and_ladj(x)[0].sum(0), points)
    depends = (jacobian[order] != 0).any(1)
    assert torch.equal(depends, depends.tril())
    assert depends.tril(-1).any(0)[:-1].all()


@dimensions
def test_gated_iaf_starts_as_the_gaussian_of_its_context_and_agrees_with_its_samples(d):
    flow = Flow(d, CONTEXT, "iaf", gated=True)
    context = torch.randn(5, CONTEXT)
    mean, log_std = flow.context_map(context)[:, : 2 * d].chunk(2, -1)
    x, log_prob = flow(context).rsample_and_log_prob((20,))
    torch.testing.assert_close(log_prob, Independent(Normal(mean, log_std.exp()), 1).log_prob(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(flow(context).mode(), mean)
    distribution = perturbed("iaf", d, gated=True)(context)
    x, log_prob = distribution.rsample_and_log_prob((20,))
    torch.testing.assert_close(distribution.log_prob(x), log_prob, atol=1e-7, rtol=1e-7)


def test_a_shear_of_low_rank_has_fewer_parameters_and_is_trained_from_its_start():
    full, low = (Flow(32, CONTEXT, "triangular", layers=2, rank=rank) for rank in (None, 4))
    assert [layer.context_size for layer in low.layers][1::2] == [256, 256]
    assert low.context_map.out_features < full.context_map.out_features
    x, log_prob = low(torch.randn(8, CONTEXT)).rsample_and_log_prob()
    (x.sin().sum() + log_prob.sum()).backward()
    start = 2 * 32 + low.layers[0].context_size
    assert (low.context_map.bias.grad[start + 4 : start + 128] != 0).all(), "u, but of the first feature"


@dimensions
def test_orientations_of_autoregressive_splines_and_low_rank_agree_with_their_samples(d):
    for name, options in (("nsf-ar", dict(fast_sampling=True)), ("triangular", dict(layers=2, rank=2))):
        distribution = perturbed(name, d, **options)(torch.randn(5, CONTEXT))
        x, log_prob = distribution.rsample_and_log_prob((20,))
        torch.testing.assert_close(distribution.log_prob(x), log_prob, atol=1e-7, rtol=1e-7)


def test_gated_iaf_trains_gate_and_new_value_from_its_start():
    flow = Flow(3, CONTEXT, "iaf", gated=True)
    x, _ = flow(torch.randn(32, CONTEXT)).rsample_and_log_prob()
    x.square().sum().backward()
    for layer in flow.layers:
        assert (layer.conditioner.linears[-1].bias.grad.abs() > 0).all()
