"""`SequenceFlow`: chunks of actions with an exact density, at every horizon and dimension, however odd."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Independent, Normal
from torch.nn import functional

from flowrl import Flow, SequenceFlow
from flowrl.fit import fit_density
from flowrl.layers import DilatedNetwork
from tests.models import build_policy, observations, widen_moderately

CONTEXT = 3
SHAPES = [(1, 1), (1, 2), (2, 1), (4, 2), (5, 1), (7, 2), (8, 3)]
shapes = pytest.mark.parametrize(("horizon", "d"), SHAPES, ids=lambda size: str(size))
couplings = pytest.mark.parametrize("coupling", ["affine", "spline"])

pytestmark = pytest.mark.usefixtures("float64")


def perturbed(horizon: int, d: int, coupling: str = "affine", context: int = CONTEXT, spread: float = 0.1, **options):
    """A flow whose parameters have moved, around a base of moderate width."""
    flow = SequenceFlow(horizon, d, context, coupling, width=8, **options)
    widen_moderately(flow.flow)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter)
    return flow


@shapes
@couplings
@pytest.mark.parametrize("context", [0, CONTEXT])
def test_starts_as_the_gaussian_of_its_context(horizon, d, coupling, context):
    flow = perturbed(horizon, d, coupling, context, spread=0.0)
    h = torch.randn(6, context) if context else None
    parameters = flow.flow.context_map(h)[..., : 2 * horizon * d]
    mean, log_std = parameters.unflatten(-1, (2, horizon, d)).unbind(-3)
    gaussian = Independent(Normal(mean, log_std.exp()), 2)
    distribution = flow(h)
    x, log_prob = distribution.rsample_and_log_prob((50,))
    torch.testing.assert_close(log_prob, gaussian.log_prob(x))
    torch.testing.assert_close(distribution.log_prob(x), gaussian.log_prob(x))
    torch.testing.assert_close(distribution.mode(), mean)


@shapes
@couplings
def test_samples_are_chunks_whose_log_prob_is_that_of_the_value(horizon, d, coupling):
    distribution = perturbed(horizon, d, coupling)(torch.randn(6, CONTEXT))
    assert distribution.event_shape == (horizon, d) and distribution.batch_shape == (6,)
    x, log_prob = distribution.rsample_and_log_prob((20,))
    assert x.shape == (20, 6, horizon, d) and log_prob.shape == (20, 6)
    torch.testing.assert_close(distribution.log_prob(x), log_prob, atol=1e-8, rtol=1e-8)
    assert distribution.rsample((2, 3)).requires_grad and not distribution.sample().requires_grad
    assert distribution.entropy(4).shape == (6,)
    assert distribution.mode().shape == distribution.mode(8).shape == (6, horizon, d)
    assert (distribution.log_prob(distribution.mode(8)) >= distribution.log_prob(distribution.mode())).all()


@shapes
@couplings
def test_log_det_is_that_of_the_jacobian_of_the_whole_chunk(horizon, d, coupling):
    transform = perturbed(horizon, d, coupling)(torch.randn(4, CONTEXT)).vectors.transform
    z = torch.randn(4, horizon * d)
    jacobian = torch.autograd.functional.jacobian(lambda z: transform.call_and_ladj(z)[0].sum(0), z)
    error = torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet - transform.call_and_ladj(z)[1]
    assert error.abs().max() < 1e-8


@couplings
def test_density_integrates_to_one_on_a_grid(coupling):
    distribution = perturbed(2, 1, coupling)(torch.randn(CONTEXT))
    axis = torch.linspace(-6, 6, 301)
    with torch.no_grad():
        p = distribution.log_prob(torch.cartesian_prod(axis, axis).unsqueeze(-1)).exp()
    assert (p.sum() * (axis[1] - axis[0]).square()).item() == pytest.approx(1, abs=1e-3)


@couplings
@pytest.mark.parametrize(("horizon", "d"), [(3, 1), (2, 2), (4, 1)], ids=str)
def test_density_integrates_to_one_by_importance_sampling(horizon, d, coupling):
    with torch.no_grad():
        distribution = perturbed(horizon, d, coupling)(torch.randn(CONTEXT))
        draws = distribution.sample((2_000,))
        proposal = Independent(Normal(draws.mean(0), 1.7 * draws.std(0)), 2)
        x = proposal.sample((20_000,))
        ratio = (distribution.log_prob(x) - proposal.log_prob(x)).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    assert error < 0.05 and abs(ratio.mean() - 1) < 3 * error


@couplings
@pytest.mark.parametrize(("horizon", "d"), [(5, 1), (7, 2), (8, 3)], ids=str)
def test_steps_depend_on_earlier_and_on_later_ones(horizon, d, coupling):
    """An action's distribution depends on each other step of its chunk, and on the others of its own step."""
    transform = perturbed(horizon, d, coupling, spread=0.3, blocks=3)(torch.randn(CONTEXT)).vectors.transform
    x = 0.1 * torch.randn(horizon * d)
    # The Hessian of log p: zero at (i, j) where x_i and x_j are independent given all others
    hessian = torch.autograd.functional.hessian(lambda x: _log_prob(transform, x), x)
    assert (hessian.abs() > 1e-9).all()


def _log_prob(transform, x):
    z, ladj = transform.inverse_and_ladj(x)
    return -0.5 * z.square().sum() - ladj


@shapes
@couplings
def test_the_state_changes_more_than_mean_and_scale(horizon, d, coupling):
    flow = perturbed(horizon, d, coupling)
    n = horizon * d
    flow.flow.set_gaussian(torch.zeros(n, CONTEXT), torch.zeros(n), torch.zeros(n, CONTEXT), torch.zeros(n))
    chunk = torch.randn(horizon, d)
    log_prob = flow(torch.randn(6, CONTEXT)).log_prob(chunk)
    assert log_prob.shape == (6,) and log_prob.std() > 1e-4


def test_one_context_and_many_chunks_and_the_reverse():
    flow = perturbed(4, 2)
    context, chunks = torch.randn(5, CONTEXT), torch.randn(5, 4, 2)
    torch.testing.assert_close(flow(context).log_prob(chunks[0]), flow(context).log_prob(chunks[:1].expand(5, 4, 2)))
    torch.testing.assert_close(flow(context[0]).log_prob(chunks), flow(context[:1].expand(5, CONTEXT)).log_prob(chunks))


def test_is_the_recipe_on_flattened_chunks():
    torch.manual_seed(1)
    sequence = SequenceFlow(4, 2, CONTEXT, "spline", bins=4)
    torch.manual_seed(1)
    vectors = Flow(8, CONTEXT, "waveglow", horizon=4, coupling="spline", bins=4)
    context, chunks = torch.randn(5, CONTEXT), torch.randn(5, 4, 2)
    assert torch.equal(sequence(context).log_prob(chunks), vectors(context).log_prob(chunks.flatten(1)))


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_serves_as_the_policy_of_an_environment_whose_actions_are_chunks(algorithm):
    torch.set_default_dtype(torch.float32)
    chunk_box = spaces.Box(-1.0, 1.0, (4, 2))
    policy = build_policy(algorithm, action_space=chunk_box, flow="waveglow", flow_kwargs=dict(horizon=4))
    action, _ = policy.predict(np.zeros(3, np.float32))
    assert action.shape == (4, 2) and chunk_box.contains(action)
    assert policy.log_prob(observations(5), torch.zeros(5, 4, 2)).shape == (5,)


def test_dilated_network_is_one_of_convolutions():
    network = DilatedNetwork(2, 3, (7,), width=4, blocks=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter)
    x, context = torch.randn(5, 7, 2), torch.randn(5, network.context_size)
    h, skips = (network.first(x) + network.place).mT, []  # (n, width, steps), as torch's convolutions take it
    for i, shift in enumerate(context.split(8, dim=-1)):
        kernel = network.gates[i].weight.unflatten(-1, (3, 4)).mT
        gates = functional.conv1d(h, kernel, padding=2**i, dilation=2**i) + shift.unsqueeze(-1)
        skips.append(gates[:, :4].tanh() * gates[:, 4:].sigmoid())
        if i < 2:
            h = h + functional.conv1d(skips[-1], network.residuals[i].weight.unsqueeze(-1), network.residuals[i].bias)
    torch.testing.assert_close(network(x, context), network.last(torch.cat(skips, dim=1).mT))


def test_half_of_the_channels_leave_at_the_split():
    """From data to noise, what left after the first scale is untouched by the second scale's parameters."""
    flow = perturbed(8, 2, context=0, scales=2)
    chunks = torch.randn(5, 8, 2)
    before, _ = flow().vectors.transform.inverse_and_ladj(chunks.flatten(1))
    with torch.no_grad():
        for parameter in flow.flow.layers[0].parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    after, _ = flow().vectors.transform.inverse_and_ladj(chunks.flatten(1))
    assert torch.equal(after[:, 8:], before[:, 8:])
    assert (after[:, :8] != before[:, :8]).all()


@pytest.mark.parametrize("context", [0, CONTEXT])
def test_data_dependent_start_centres_and_scales_every_channel(context):
    flow = perturbed(8, 2, context=context, spread=0.1)
    chunks = 3.0 + torch.randn(500, 8, 2).cumsum(1) * torch.tensor([0.2, 5.0])
    states = torch.randn(500, context) if context else None
    before = flow(states).log_prob(chunks).mean()
    flow.initialize(chunks, states)
    distribution = flow(states)
    assert distribution.log_prob(chunks).mean() > before
    # The deepest of the activation norms comes first in the list, noise to data.
    *above, norm = flow.flow.layers[0].layers[:3]
    slices = flow.flow._parameters_of(states).split(flow.flow._sizes, dim=-1)[2]
    inner = slices.split(flow.flow.layers[0].sizes, dim=-1)[:3]
    z, _ = distribution.vectors.transform.inverse_and_ladj(chunks.flatten(1))
    h = z[:, :8]
    for layer, part in zip(above, inner):
        h, _ = layer(part).call_and_ladj(h)
    channels = h.reshape(-1, norm.channels)
    torch.testing.assert_close(channels.mean(0), torch.zeros(norm.channels), atol=1e-9, rtol=0)
    torch.testing.assert_close(channels.std(0), torch.ones(norm.channels), atol=1e-9, rtol=0)


@couplings
def test_copies_and_pickles_after_sampling(coupling):
    flow = perturbed(4, 2, coupling)
    context, chunks = torch.randn(5, CONTEXT), torch.randn(5, 4, 2)
    flow(context).rsample_and_log_prob()
    for copied in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(copied(context).log_prob(chunks), flow(context).log_prob(chunks))


def test_compiles_without_a_graph_break():
    flow = perturbed(4, 2, "spline", steps=1, scales=1)
    context, chunks = torch.randn(5, CONTEXT), torch.randn(5, 4, 2)

    def both_directions(context, chunks):
        distribution = flow(context)
        return distribution.mode(), distribution.log_prob(chunks)

    compiled = torch.compile(both_directions, fullgraph=True, backend="eager")
    for traced, eager in zip(compiled(context, chunks), both_directions(context, chunks), strict=True):
        torch.testing.assert_close(traced, eager)
    torch._dynamo.reset()


def test_every_parameter_gets_a_gradient():
    flow = perturbed(8, 2, "spline")
    x, log_prob = flow(torch.randn(16, CONTEXT)).rsample_and_log_prob()
    (log_prob.mean() + x.square().sum()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SequenceFlow(0, 2), "horizon must be a whole number of at least 1, got 0"),
        (lambda: SequenceFlow(4, 0), "features must be a whole number of at least 1, got 0"),
        (lambda: SequenceFlow(4.0, 2), "horizon must be a whole number of at least 1, got 4.0"),
        (lambda: SequenceFlow(4, 2, coupling="afine"), "coupling must be one of 'affine', 'spline', got 'afine'"),
        (lambda: SequenceFlow(4, 2, scales=0), "scales must be a whole number of at least 1, got 0"),
        (lambda: SequenceFlow(4, 2, dilation=2), "could not be built with options"),
        (lambda: Flow(7, flow="waveglow", horizon=2), "divides the 7 features of a chunk, got 2"),
        (lambda: SequenceFlow(4, 2)().log_prob(torch.zeros(5, 8)), r"A chunk has shape \(\*, 4, 2\), got \(5, 8\)"),
        (lambda: SequenceFlow(4, 2).initialize(torch.zeros(9, 2, 4)), r"shape \(batch, 4, 2\), got \(9, 2, 4\)"),
        (lambda: SequenceFlow(4, 2).initialize(torch.zeros(1, 4, 2)), r"data of shape \(batch, 8\), batch >= 2"),
        (lambda: SequenceFlow(4, 2, 3).initialize(torch.zeros(5, 4, 2)), "context of size 3, got no context"),
        (
            lambda: SequenceFlow(4, 2, 3).initialize(torch.zeros(5, 4, 2), torch.zeros(4, 3)),
            r"got \(5, 8\) and \(4, 3\)",
        ),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# Chunks with a known density, to be learnt from samples.

HORIZON = 8
DECAY, NOISE = 0.9, 0.3
TURN = 0.4  # radians a step


def rotation(angle: float) -> torch.Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def autoregressive_chunks(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x_1 = state + e_1 and x_{t+1} = A x_t + 0.3 e_t, with A a rotation that shrinks; chunks and states."""
    state = torch.randn(n, 2)
    steps = [state + torch.randn(n, 2)]
    for _ in range(HORIZON - 1):
        steps.append(DECAY * steps[-1] @ rotation(TURN).T + NOISE * torch.randn(n, 2))
    return torch.stack(steps, dim=1), state


def autoregressive_entropies() -> tuple[float, float]:
    """Of the chunk given the state, and of the best diagonal Gaussian: the sum of the single features' entropies."""
    unit = math.log(2 * math.pi * math.e)  # of two standard normal features together
    variances = [1.0]
    for _ in range(HORIZON - 1):
        variances.append(DECAY**2 * variances[-1] + NOISE**2)
    exact = HORIZON * unit + 2 * (HORIZON - 1) * math.log(NOISE)
    return exact, HORIZON * unit + sum(math.log(variance) for variance in variances)


@pytest.mark.slow
def test_autoregressive_chunks_are_learnt_almost_to_their_entropy():
    torch.set_default_dtype(torch.float32)
    chunks, states = autoregressive_chunks(3_000)
    flow = SequenceFlow(HORIZON, 2, 2)
    flow.initialize(chunks, states)
    fit_density(flow, chunks, states, steps=200, learning_rate=5e-3, validation=0.1, seed=0)
    test, states = autoregressive_chunks(4_000)
    with torch.no_grad():
        cross_entropy = -flow(states).log_prob(test).mean().item()
    exact, diagonal = autoregressive_entropies()
    assert exact - 0.1 < cross_entropy < exact + 0.1 * (diagonal - exact)


def sinusoid_chunks(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One period of amplitude s sin(t + phase), the phase uniform and unknown, with noise of 0.1; chunks and states."""
    state, phase = 0.5 + 1.5 * torch.rand(n, 1), 2 * math.pi * torch.rand(n, 1)
    times = torch.arange(HORIZON) * (2 * math.pi / HORIZON)
    return (state * torch.sin(times + phase) + 0.1 * torch.randn(n, HORIZON)).unsqueeze(-1), state


def sinusoid_log_prob(chunks: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The mean over phases of a Gaussian around each; around a circle a sum of equal steps is exact."""
    phases = torch.arange(1_000)[:, None] * (2 * math.pi / 1_000)
    times = torch.arange(HORIZON) * (2 * math.pi / HORIZON)
    means = states[:, None] * torch.sin(times + phases)  # (n, phases, horizon)
    given_phase = Normal(means, 0.1).log_prob(chunks.squeeze(-1)[:, None]).sum(-1)
    return given_phase.logsumexp(1) - math.log(1_000)


@pytest.mark.slow
@couplings
def test_chunks_on_a_ring_are_learnt_where_a_gaussian_is_lost(coupling):
    """Sinusoids of unknown phase lie on a circle whose radius the state says: no Gaussian is near."""
    torch.set_default_dtype(torch.float32)
    chunks, states = sinusoid_chunks(10_000)
    test, test_states = sinusoid_chunks(1_000)
    gaussian, flow = Flow(HORIZON, 1, []), SequenceFlow(HORIZON, 1, 1, coupling)
    fit_density(gaussian, chunks.flatten(1), states, steps=300, learning_rate=1e-2, seed=0)
    flow.initialize(chunks, states)
    fit_density(flow, chunks, states, steps=800, learning_rate=3e-3, validation=0.05, seed=0)
    with torch.no_grad():
        by_gaussian = gaussian(test_states).log_prob(test.flatten(1)).mean().item()
        by_flow = flow(test_states).log_prob(test).mean().item()
    exact = sinusoid_log_prob(test, test_states).mean().item()
    assert by_flow < exact + 0.1
    assert exact - by_flow < 0.1 * (exact - by_gaussian)
