"""Stochastic flows: their weights are exact, whatever the steps; and they do not pretend to have a density."""

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import AffineTransform, Categorical, Independent, MixtureSameFamily, Normal

from flowrl import Flow
from flowrl.fit.importance import importance_estimate
from flowrl.flows.path import PathFlow
from flowrl.flows.stochastic import Langevin, MetropolisAdjustedLangevin, RandomWalkMetropolis, StochasticFlow

STEPS = {
    "Langevin": lambda: Langevin(0.05, steps=3, annealing=0.7),
    "random walk": lambda: RandomWalkMetropolis(0.8, steps=3, annealing=0.7),
    "MALA": lambda: MetropolisAdjustedLangevin(0.2, steps=3, annealing=0.7),
}
steps = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
LOG_Z = 1.3

pytestmark = pytest.mark.usefixtures("float64")


def mixture(d: int) -> MixtureSameFamily:
    means = torch.stack((torch.full((d,), 1.2), torch.full((d,), -0.8)))
    return MixtureSameFamily(Categorical(torch.tensor([0.6, 0.4])), Independent(Normal(means, 0.6), 1))


def moved(flow: Flow, spread: float = 0.1) -> Flow:
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter)
    return flow


@steps
@pytest.mark.parametrize("d", [1, 2, 3])
def test_weights_are_unbiased_for_the_normaliser_and_for_expectations(step, d):
    """E[w] = Z and E[w f(x)] = Z E_p f, with steps between transforms, at their start and at their end."""
    parts = [step(), moved(Flow(d)), step(), AffineTransform(0.1, 1.2), moved(Flow(d, flow="realnvp")), step()]
    flow, target = StochasticFlow(d, parts), mixture(d)
    x, log_w = flow.sample_and_log_weight(lambda x: target.log_prob(x) + LOG_Z, 20_000)
    w = (log_w.detach() - LOG_Z).exp()
    assert x.shape == (20_000, d) and log_w.shape == (20_000,)
    assert abs(w.mean() - 1) < 4 * w.std() / math.sqrt(len(w))
    error = w * (x.detach().sum(-1) - target.mean.sum())
    assert abs(error.mean()) < 4 * error.std() / math.sqrt(len(w))


def test_langevin_ratio_is_that_of_its_two_kernels():
    """In one dimension, by hand: forward N(y'; y + eps g(y), 2 eps), backward N(y; y' + eps g(y'), 2 eps)."""
    epsilon, annealing = 0.3, 0.4
    y = torch.randn(50, 1)
    there, ratio = Langevin(epsilon, annealing=annealing)(y, lambda x: -(x**4).sum(-1))

    def kernel(start, end):
        score = -(1 - annealing) * start - annealing * 4 * start**3
        return Normal(start + epsilon * score, math.sqrt(2 * epsilon)).log_prob(end).sum(-1)

    torch.testing.assert_close(ratio, kernel(there, y) - kernel(y, there))


@pytest.mark.parametrize("step", [RandomWalkMetropolis, MetropolisAdjustedLangevin])
def test_metropolis_ratio_is_that_of_the_annealed_densities(step):
    y = torch.randn(200, 1)
    there, ratio = step(0.7, annealing=0.4)(y, lambda x: -(x**4).sum(-1))

    def log_p(x):
        return (0.6 * Normal(0.0, 1.0).log_prob(x) - 0.4 * x**4).sum(-1)

    torch.testing.assert_close(ratio, log_p(y) - log_p(there))
    moves = (there != y).any(-1).double().mean()
    assert 0.2 < moves < 0.98, "some proposals are accepted, some are not"


@pytest.mark.parametrize("annealing", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("step", [RandomWalkMetropolis, MetropolisAdjustedLangevin])
def test_weights_of_a_target_with_edges_are_unbiased(step, annealing):
    """A chain that starts outside, where log p is -inf, and stays there has gone nowhere."""
    flow = StochasticFlow(1, [step(0.3, steps=2, annealing=annealing)])
    uniform = lambda x: torch.where(((x >= 0) & (x <= 1)).all(-1), 0.0 * x.sum(-1), -torch.inf)  # noqa: E731
    _, log_w = flow.sample_and_log_weight(uniform, 20_000)
    w = log_w.detach().exp()
    assert not w.isnan().any()
    assert abs(w.mean() - 1) < 4 * w.std() / math.sqrt(len(w))


@pytest.mark.parametrize("step", [RandomWalkMetropolis(2.0, steps=20), MetropolisAdjustedLangevin(0.5, steps=20)])
def test_metropolis_steps_leave_their_density_as_it_is(step):
    """Started at a narrow Gaussian, with steps so large that an unadjusted chain's variance would be off."""
    target = Independent(Normal(torch.zeros(1), 0.6), 1)
    n = 40_000
    y, _ = step(target.sample((n,)), target.log_prob)
    second, fourth = y.square().mean(), y.pow(4).mean()
    assert abs(second - 0.36) < 4 * math.sqrt(2 / n) * 0.36
    assert abs(fourth - 3 * 0.36**2) < 4 * math.sqrt(96 / n) * 0.36**2
    unadjusted, _ = Langevin(0.5, steps=20)(target.sample((n,)), target.log_prob)
    assert abs(unadjusted.square().mean() - 0.36) > 0.1


@pytest.mark.parametrize("step", [RandomWalkMetropolis, MetropolisAdjustedLangevin])
def test_weights_are_all_z_where_the_flow_is_the_target_already(step):
    proposal = moved(Flow(2, flow="nsf"))
    flow = StochasticFlow(2, [proposal, step(0.1, steps=5)])
    target = copy.deepcopy(proposal)
    with torch.no_grad():
        _, log_w = flow.sample_and_log_weight(lambda x: target().log_prob(x) + LOG_Z, 100)
    torch.testing.assert_close(log_w, torch.full((100,), LOG_Z), atol=1e-8, rtol=0)
    assert importance_estimate(log_w).ess == pytest.approx(1)


def test_without_steps_the_weight_is_that_of_the_flow():
    flow = moved(Flow(2))
    x, log_w = StochasticFlow(2, [flow]).sample_and_log_weight(mixture(2).log_prob, 100)
    torch.testing.assert_close(log_w, mixture(2).log_prob(x) - flow().log_prob(x))


def test_gradients_through_langevin_steps_agree_with_finite_differences():
    """Of E[log w], by the noise's path, with respect to the flow before the steps and to the target's own parameter."""
    before, scale = moved(Flow(2)), torch.tensor(1.3, requires_grad=True)
    flow = StochasticFlow(2, [before, Langevin(0.05, steps=2, annealing=0.5), Langevin(0.1)])

    def bound():
        torch.manual_seed(3)
        _, log_w = flow.sample_and_log_weight(lambda x: mixture(2).log_prob(x * scale), 32)
        return log_w.mean()

    bound().backward()
    for parameter in (*before.parameters(), scale):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += 1e-6 * direction
            above = bound()
            parameter -= 2e-6 * direction
            slope = (above - bound()) / 2e-6
            parameter += 1e-6 * direction
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope.item(), abs=1e-6, rel=1e-4)


@steps
def test_gradients_are_finite_and_evaluation_has_none(step):
    before = moved(Flow(2, flow="realnvp"))
    flow = StochasticFlow(2, [before, step()])
    flow.sample_and_log_weight(mixture(2).log_prob, 64)[1].mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())
    assert sum(parameter.grad.abs().sum() for parameter in flow.parameters()) > 0
    with torch.no_grad():
        x, log_w = flow.sample_and_log_weight(mixture(2).log_prob, 64)
    assert not x.requires_grad and not log_w.requires_grad


def test_training_with_steps_beats_the_flow_alone():
    """A Gaussian cannot be two modes; a Gaussian with a chain after it comes nearer, and says so by its bound."""
    target = MixtureSameFamily(
        Categorical(torch.tensor([0.5, 0.5])), Independent(Normal(torch.tensor([[1.5], [-1.5]]), 0.5), 1)
    )
    bounds = []
    for parts in ([], [RandomWalkMetropolis(1.0, steps=3, annealing=a) for a in (0.3, 0.7, 1.0)]):
        flow = StochasticFlow(1, [Flow(1, flow=[]), *parts])
        optimizer = torch.optim.Adam(flow.parameters(), lr=5e-2)
        for _ in range(100):
            loss = -flow.sample_and_log_weight(target.log_prob, 64)[1].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        estimate = importance_estimate(flow.sample_and_log_weight(target.log_prob, 10_000)[1])
        assert estimate.log_z == pytest.approx(0, abs=4 * estimate.log_z_standard_error)
        bounds.append(estimate.elbo)
    assert bounds[0] + 0.05 < bounds[1] < 0


def test_has_no_log_prob_and_says_why():
    flow = StochasticFlow(2, [Langevin(0.1)])
    assert not hasattr(flow, "log_prob") and not hasattr(flow, "rsample_and_log_prob")
    with pytest.raises(AttributeError, match="no log_prob: .* integral over all paths .* sample_and_log_weight"):
        _ = flow.log_prob
    with pytest.raises(AttributeError, match="no attribute 'bogus'"):
        _ = flow.bogus


def test_what_a_transform_of_torch_holds_is_trained_saved_and_moved():
    shift = torch.nn.Parameter(torch.zeros(2))
    flow = StochasticFlow(2, [AffineTransform(shift, torch.full((2,), 1.5)), Langevin(0.1)])
    assert [parameter is shift for parameter in flow.parameters()] == [True]
    flow.sample_and_log_weight(mixture(2).log_prob, 64)[1].mean().backward()
    assert shift.grad.abs().sum() > 0
    other = StochasticFlow(2, [AffineTransform(torch.nn.Parameter(torch.ones(2)), 1.5), Langevin(0.1)])
    other.load_state_dict(flow.state_dict())
    assert other.state_dict() and torch.equal(next(other.parameters()), shift)
    x, log_w = flow.to("meta").sample_and_log_weight(lambda x: -x.square().sum(-1), 4)
    assert x.device == log_w.device == torch.device("meta")


@steps
def test_copies_pickles_and_repeats_with_a_seed(step):
    flow = StochasticFlow(3, [moved(Flow(3, flow="realnvp")), step()])

    def draw(flow):
        torch.manual_seed(5)
        return flow.sample_and_log_weight(mixture(3).log_prob, 8)

    x, log_w = draw(flow)
    for same in (flow, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        again, log_w_again = draw(same)
        assert torch.equal(x, again) and torch.equal(log_w, log_w_again)
    loaded = StochasticFlow(3, [Flow(3, flow="realnvp"), step()])
    loaded.load_state_dict(flow.state_dict())
    torch.testing.assert_close(draw(loaded)[0], x)
    single = flow.float().sample_and_log_weight(lambda x: -x.square().sum(-1), 4)
    assert single[0].dtype == single[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Langevin(0.0), "Langevin needs step_size > 0"),
        (lambda: RandomWalkMetropolis(0.1, steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: MetropolisAdjustedLangevin(0.1, annealing=1.5), r"annealing in \[0, 1\]"),
        (lambda: StochasticFlow(2, [Flow(3)]), "of 2 features; got one with context=0, features=3"),
        (lambda: Langevin(0.1, steps=1.5), "steps must be a whole number of at least 1, got 1.5"),
        (lambda: Langevin(0.1, steps=True), "steps must be a whole number of at least 1, got True"),
        (lambda: StochasticFlow(2, [Flow(2, 1)]), "must be unconditional"),
        (lambda: StochasticFlow(2, [PathFlow(2)]), "stochastic steps, got PathFlow"),
        (
            lambda: StochasticFlow(2, [torch.nn.Linear(2, 2)]),
            "made of flows, transforms and stochastic steps, got Linear",
        ),
        (lambda: StochasticFlow(2, []).sample_and_log_weight(lambda x: x, 5), r"log_density must map \(5, 2\)"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
