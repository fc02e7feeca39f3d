"""The C kernels agree with torch's own operations, in value and gradient, and everything works without them."""

import copy
import itertools
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl import Flow, NormalizingFlow
from flowrl.flows.distribution import standard_normal_log_prob
from flowrl.kernels import act, fused_flow, library, structures
from flowrl.kernels.program import lowered
from flowrl.layers import Elementwise, ShearLayer, SplineBijector
from flowrl.layers.conditioner import Conditioner
from flowrl.policies.action_distribution import FlowDistribution
from flowrl.transforms import Affine
from flowrl.transforms.spline import evaluate
from tests.models import KERNEL_FLOWS, perturb

PRECISIONS = {torch.float64: 1e-10, torch.float32: 1e-4}
precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS.items(), ids=str)
needs_compiler = pytest.mark.skipif(library.load(torch.float32) is None, reason="no C compiler: install gcc")


def values_and_gradients(function, *inputs):
    """Outputs, and gradients of a random combination of them."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    outputs = function(*inputs)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output) for output in outputs]
    return *outputs, *torch.autograd.grad(outputs, inputs, weights)


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        scale = max(1.0, b.abs().max().item())
        assert (a - b).abs().max() <= tolerance * scale


@needs_compiler
@precisions
@settings(deadline=None, max_examples=25)
@given(
    batch=st.sampled_from([1, 3, 64, 130]),
    features=st.sampled_from([1, 2, 17]),
    bins=st.sampled_from([2, 5, 8, 64]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    inverse=st.booleans(),
)
def test_spline(dtype, tolerance, batch, features, bins, spread, inverse):
    generator = torch.Generator().manual_seed(0)
    raw = spread * torch.randn(batch, features, 3 * bins - 1, generator=generator, dtype=torch.float64)
    value = 3 * torch.randn(batch, features, generator=generator, dtype=torch.float64)
    # In float32 both are right to a rounding error that an almost singular spline magnifies: compare with the truth.
    truth = values_and_gradients(lambda v, r: evaluate(v, r, 4.0, inverse), value, raw)
    flow = Flow(features, 0, [Elementwise(features, SplineBijector(bins))])

    def spline(value, raw):
        zeros = torch.zeros(batch, 2 * features, dtype=dtype)  # mean and log-std
        return flow.from_parameters(torch.cat((zeros, raw.flatten(1)), 1)).transform.evaluate(value, inverse)

    ours = values_and_gradients(spline, value.to(dtype), raw.to(dtype))
    if spread > (1 if dtype == torch.float32 else 3):  # rounding, magnified: only that it stays within reason
        assert all(tensor.isfinite().all() for tensor in ours)
        assert_close(ours[:1], [truth[0].to(dtype)], 1e-3)
    else:  # sums over more bins round more
        assert_close(ours, [tensor.to(dtype) for tensor in truth], tolerance * max(1, bins / 16))


@needs_compiler
@precisions
@pytest.mark.parametrize("pre_squash", [False, True])
def test_squash(dtype, tolerance, pre_squash):
    """A policy whose mean is its observation u, without noise: tanh(u) and its log-prob, saturated or next to zero."""
    u = torch.cat((torch.linspace(-50, 50, 1001), torch.logspace(-8, 1, 500), torch.tensor([0.0, 0.25, -0.25])))
    flow = Flow(1, 2, "gaussian").to(dtype)
    flow.set_gaussian(torch.tensor([[1.0, -1.0]]), torch.zeros(1), None, torch.zeros(1))
    latent = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU()).to(dtype)
    with torch.no_grad():
        latent[0].weight[:], latent[0].bias[:] = torch.tensor([[1.0], [-1.0]]), 0.0
        distribution = FlowDistribution(1, pre_squash=pre_squash)
        found = act(flow, distribution, latent, lambda: u.to(dtype).unsqueeze(1), True)
    u = u.double()
    # Not softplus, which torch replaces by its asymptote from 20 on
    log_slope = 2 * (math.log(2) + u - torch.logaddexp(2 * u, torch.zeros_like(u)))
    expected = u if pre_squash else u.tanh()
    torch.testing.assert_close(found.actions.flatten().double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        found.log_prob.double(), -0.5 * math.log(2 * math.pi) - log_slope, rtol=tolerance / 10, atol=tolerance / 10
    )


@pytest.fixture
def quick_compiler(monkeypatch, tmp_path):
    """A cache of its own, and no optimisation, which takes seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", ("-O0", "-shared", "-fPIC"))
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@needs_compiler
def test_structures_are_checked_when_a_library_is_opened(quick_compiler, monkeypatch, caplog):
    text = structures.source().replace("int inverse;", "int inverse, between;")
    wrong = structures.structure.__wrapped__
    monkeypatch.setattr(structures, "source", lambda: text)
    monkeypatch.setattr(structures, "structure", lambda name: wrong(name))
    assert library.load(torch.float32) is None
    assert "could not compile" in caplog.text


FLOWS = {
    "gaussian": {},
    "triangular": dict(layers=2),
    "triangular of low rank": dict(layers=2, rank=3),
    "affine": {},
    "nsf": dict(hidden=(16, 12)),
    "nsf with a gain": dict(hidden=(16, 12), conditioner_gain=0.3),
    "realnvp": dict(layers=3, hidden=(7, 300)),  # 300: more than the kernel packs at once
    "realnvp with a gain": dict(hidden=(7, 9, 5), conditioner_gain=3.0),
}


@needs_compiler
@precisions
@pytest.mark.parametrize("features", [1, 2, 3, 17])
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("batch", [1, 70])
def test_whole_flow(dtype, tolerance, features, name, batch, monkeypatch):
    """Values and gradients, both ways, of log-determinants and of log-densities."""
    torch.manual_seed(0)
    if features == 1 and name.endswith("a gain"):
        pytest.skip("one dimension has no coupling, hence no network to have a gain")
    flow = Flow(features, 5, name.split()[0], **FLOWS[name]).to(dtype)
    if lowered(flow) is None:
        pytest.skip("one dimension has no affine coupling")
    with torch.no_grad():
        for weight in flow.layers.parameters():
            weight += 0.1 * torch.randn_like(weight)
    parameters = 0.5 * torch.randn(batch, flow.context_map.out_features, dtype=dtype)
    parameters[:3, features : 2 * features] = torch.tensor([[-25.0], [2.5], [-20.0]])[:batch]  # at, beyond the bounds
    noise = torch.randn(batch, features, dtype=dtype)
    # Points where such a density is: its scale magnifies rounding anywhere else
    points = flow.from_parameters(parameters).transform.call_and_ladj(noise)[0].detach()
    names = [name for name, _ in flow.layers.named_parameters()]

    class Pass(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = flow

        def forward(self, value, parameters, inverse, density):
            return self.flow.from_parameters(parameters).transform.evaluate(value, inverse, density)

    module = Pass()
    for inverse, density in itertools.product([False, True], repeat=2):

        def evaluate(value, parameters, *weights, inverse=inverse, density=density):
            named = {f"flow.layers.{name}": weight for name, weight in zip(names, weights)}
            return torch.func.functional_call(module, named, (value, parameters, inverse, density))

        inputs = (points if inverse else noise, parameters, *flow.layers.parameters())
        ours = values_and_gradients(evaluate, *inputs)
        with monkeypatch.context() as in_torch:
            in_torch.setattr(fused_flow, "_serves", lambda *_: False)
            assert_close(ours, values_and_gradients(evaluate, *inputs), tolerance)


@needs_compiler
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_either_output_may_be_used_alone(which, inverse, monkeypatch, float64):
    torch.manual_seed(0)
    flow = Flow(3, 5, "nsf", hidden=(16,))
    parameters, value = torch.randn(9, flow.context_map.out_features), torch.randn(9, 3)

    def one(value, parameters):
        return (flow.from_parameters(parameters).transform.evaluate(value, inverse, density=True)[which],)

    ours = values_and_gradients(one, value, parameters)
    monkeypatch.setattr(fused_flow, "_serves", lambda *_: False)
    assert_close(ours, values_and_gradients(one, value, parameters), 1e-10)


@needs_compiler
@pytest.mark.parametrize("flow", ["triangular", "nsf"])
def test_second_derivatives_are_those_of_the_formula(flow, monkeypatch, float64):
    torch.manual_seed(0)
    flow = Flow(2, 3, flow)
    context = torch.randn(4, 3)
    x = torch.randn(4, 2)
    vector = [torch.randn_like(parameter) for parameter in flow.parameters()]

    def hessian_vector_product():
        loss = flow(context).log_prob(x).square().sum()
        gradients = torch.autograd.grad(loss, list(flow.parameters()), create_graph=True)
        product = sum((gradient * direction).sum() for gradient, direction in zip(gradients, vector))
        return torch.autograd.grad(product, list(flow.parameters()), allow_unused=True, materialize_grads=True)

    ours = hessian_vector_product()
    monkeypatch.setattr(fused_flow, "_serves", lambda *_: False)
    assert_close(ours, hessian_vector_product(), 1e-9)


@needs_compiler
@pytest.mark.parametrize("where", ["value", "parameter"])
def test_nan_stays_nan(where):
    flow, value = Flow(2, 3, "triangular"), torch.zeros(3, 2)
    parameters = torch.zeros(3, flow.context_map.out_features)
    (value if where == "value" else parameters)[1] = torch.nan
    image, ladj = flow.from_parameters(parameters).transform.call_and_ladj(value)
    assert image[1].isnan().all() and ladj[1].isnan()
    assert image[[0, 2]].isfinite().all() and ladj[[0, 2]].isfinite().all()


@pytest.mark.parametrize(
    "trouble", ["no compiler", "a broken compiler", "a compiler that nothing can run", "switched off"]
)
def test_without_a_compiler_the_formulas_serve_and_it_is_said_once(trouble, monkeypatch, caplog, tmp_path):
    if trouble == "switched off":
        monkeypatch.setenv("FLOWRL_NATIVE", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if trouble == "no compiler":
        monkeypatch.setattr(library.shutil, "which", lambda _: None)
    elif trouble == "a broken compiler":
        monkeypatch.setenv("CC", "false")
    if trouble == "a compiler that nothing can run":
        of_another_machine = tmp_path / "cc"
        of_another_machine.write_bytes(b"no format that this machine knows")
        of_another_machine.chmod(0o755)
        monkeypatch.setenv("CC", str(of_another_machine))
    caches = (library.load, library._version, library.function)
    for cache in caches:
        cache.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            flow = Flow(2, flow="triangular")
            found = [type(flow()) for _ in range(2)]
        assert found == [NormalizingFlow] * 2
        expected = {"no compiler": "Install one", "switched off": None}.get(trouble, "could not compile")
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == int(expected is not None)
        assert expected is None or (expected in messages[0] and "FLOWRL_NATIVE=0" in messages[0])
    finally:
        for cache in caches:
            cache.cache_clear()


@needs_compiler
def test_what_looks_on_other_than_eager_autograd_sees_the_formulas(float64):
    flow = Flow(2, 3, "triangular")
    perturbed = 0.3 * torch.randn(5, flow.context_map.out_features)
    x = torch.randn(5, 2)

    def log_prob(parameters):
        return flow.from_parameters(parameters).log_prob(x)

    expected = torch.autograd.functional.jacobian(log_prob, perturbed)
    torch.testing.assert_close(torch.autograd.functional.jacobian(log_prob, perturbed, vectorize=True), expected)
    direction = torch.randn_like(perturbed)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(perturbed, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(log_prob(dual)).tangent
    torch.testing.assert_close(tangent, (expected * direction).sum((-2, -1)))
    with torch.no_grad():
        traced = torch.jit.trace(log_prob, (perturbed,), check_trace=False)
        torch.testing.assert_close(traced(perturbed + 1), log_prob(perturbed + 1))


@needs_compiler
def test_one_value_in_many_states_and_the_reverse():
    flow = Flow(2, 3, "triangular")
    transform, x = flow(torch.randn(7, 3)).transform, torch.randn(7, 2)
    torch.testing.assert_close(transform.call_and_ladj(x[:1]), transform.call_and_ladj(x[:1].expand(7, 2)))
    assert transform.call_and_ladj(torch.randn(4, 1, 2))[0].shape == (4, 7, 2)


@pytest.mark.parametrize("name", KERNEL_FLOWS)
def test_a_tensor_of_another_size_is_refused_and_nothing_is_read_beyond_its_end(name):
    flow = Flow(3, 4, name, **KERNEL_FLOWS[name])
    distribution = flow(torch.randn(8, 4))
    for size in (2, 4, 4000):
        value = torch.randn(8, size)
        calls = (distribution.to_noise, distribution.from_noise, distribution.log_det, distribution.log_prob)
        for call in (*calls, distribution.from_noise_and_log_prob, distribution.transform.call_and_ladj):
            with pytest.raises((ValueError, RuntimeError), match="size|numbers"):
                call(value)
    with pytest.raises((ValueError, RuntimeError), match="size|numbers"):
        flow.from_parameters(torch.zeros(8, 4)).log_prob(torch.zeros(8, 3))


@needs_compiler
def test_layers_that_take_the_place_of_all_are_those_that_serve():
    flow, context = Flow(3, 4, "realnvp"), torch.randn(8, 4)
    perturb(flow, 0.3)
    value = flow(context).sample()
    flow.layers = copy.deepcopy(flow.layers)
    perturb(flow.layers, 0.3)
    log_prob = flow(context).log_prob(value)
    z, ladj = flow.transform_of(flow._parameters_of(context)).inverse_and_ladj(value)
    torch.testing.assert_close(log_prob, standard_normal_log_prob(z) - ladj, rtol=1e-4, atol=1e-4)
    log_prob.sum().backward()
    assert all(parameter.grad is not None for parameter in flow.layers.parameters())


@needs_compiler
def test_a_transform_of_the_users_own_is_called():
    class Still(Flow):
        def transform_of(self, parameters):
            return Affine(torch.zeros_like(parameters[..., :2]), torch.zeros_like(parameters[..., :2]))

    flow = Still(2, 3)
    perturb(flow, 0.3)
    value = torch.randn(5, 2)
    torch.testing.assert_close(flow(torch.randn(5, 3)).log_prob(value), standard_normal_log_prob(value))


def test_a_deviation_beyond_float32_is_torchs():
    flow = Flow(1, 0, [], log_std_max=120.0)
    with torch.no_grad():
        flow.context_map.bias.copy_(torch.tensor([0.0, 88.5]))  # its exponential has a float32, barely
    found = flow().log_prob(torch.full((1,), 1e10))
    torch.testing.assert_close(found, torch.tensor(-0.5 * math.log(2 * math.pi) - 88.5))


@needs_compiler
@pytest.mark.parametrize("has_gradient", [False, True])
def test_a_sample_is_its_own_memory(has_gradient):
    flow = Flow(3, 4)
    with torch.set_grad_enabled(has_gradient):
        sample = flow(torch.randn(100, 4)).rsample()
    assert sample.is_contiguous() and sample.untyped_storage().nbytes() == 4 * 300


@needs_compiler
def test_layers_and_maps_of_the_users_own_are_called():
    class Reflection(ShearLayer):
        def forward(self, parameters):
            called.append("layer")
            return super().forward(parameters)

    called = []
    Flow(2, 3, [Reflection(2)])(torch.randn(5, 3)).rsample()
    flow = Flow(2, 3, "triangular")
    flow.context_map.register_forward_hook(lambda *_: called.append("hook"))
    flow(torch.randn(5, 3))
    assert called == ["layer", "hook"]


@pytest.mark.parametrize(("name", "of"), [("triangular", Elementwise), ("nsf", Conditioner)])
def test_another_bijector_is_noticed(name, of):
    flow = Flow(2, flow=name)
    perturb(flow, 0.5)
    value = 3 * torch.randn(5, 2)
    before = flow().log_prob(value)
    part = next(part for part in flow.modules() if isinstance(part, of) and isinstance(part.bijector, SplineBijector))
    part.bijector = SplineBijector(part.bijector.bins, 2 * part.bijector.bound)
    z, ladj = flow.transform_of(flow._parameters_of(None)).inverse_and_ladj(value)
    torch.testing.assert_close(flow().log_prob(value), standard_normal_log_prob(z) - ladj, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(flow().log_prob(value), before)
