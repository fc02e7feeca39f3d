"""Variational inference: exact where the flow can be the target, honest numbers where it cannot, clear refusals."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowrl import Flow, fit_variational
from flowrl.fit import VariationalFit
from flowrl.fit.importance import importance_estimate

SHORT = dict(steps=20, samples=64, seed=0)


def mixture(separation: float) -> MixtureSameFamily:
    means = separation * torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
    return MixtureSameFamily(Categorical(torch.tensor([0.7, 0.3])), Independent(Normal(means, 0.6), 1))


def test_the_flow_itself_as_target_is_exact():
    """Every importance weight is Z: the bound is tight, the error zero, the effective sample size one."""
    torch.manual_seed(0)
    flow = Flow(2, flow="nsf").double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    target = Flow(2, flow="nsf").double()
    target.load_state_dict(flow.state_dict())
    fit = fit_variational(flow, lambda x: target().log_prob(x) + 1.7, learning_rate=1e-12, annealing=0, **SHORT)
    assert fit.elbo == pytest.approx(1.7, abs=1e-6) and fit.log_z == pytest.approx(1.7, abs=1e-6)
    assert fit.ess == pytest.approx(1, abs=1e-9)
    assert fit.elbo_standard_error < 1e-6 and fit.log_z_standard_error < 1e-6
    assert fit.steps == list(range(1, 21)) and fit.ess_curve == pytest.approx([1] * 20, abs=1e-6)


def test_finds_the_normaliser_of_a_mixture():
    flow = Flow(2, layers=2)
    target = mixture(1.5)
    fit = fit_variational(flow, lambda x: target.log_prob(x) - 3.2, learning_rate=2e-2, steps=300, seed=0)
    assert isinstance(fit, VariationalFit)
    assert fit.log_z == pytest.approx(-3.2, abs=4 * fit.log_z_standard_error)
    assert fit.log_z_standard_error < 0.01 and fit.ess > 0.85
    assert -3.3 < fit.elbo < -3.2
    assert fit.elbo_curve[-1] == pytest.approx(fit.elbo, abs=0.05)


def test_a_gaussian_for_a_mixture_has_a_lower_bound_and_fewer_effective_samples():
    target = mixture(1.5)
    gaussian, spline = (
        fit_variational(Flow(2, flow=flow), target.log_prob, learning_rate=2e-2, steps=150, seed=0)
        for flow in ([], "triangular")
    )
    assert gaussian.elbo < spline.elbo - 0.1 and gaussian.ess < spline.ess - 0.1


def test_annealing_finds_both_modes_where_the_bound_alone_loses_one():
    """The lost one goes unseen: log Z is that of the mode of weight 0.7, at nearly full effective sample size."""
    target = mixture(3.0)

    def fit(annealing: int) -> VariationalFit:
        torch.manual_seed(0)
        flow = Flow(2, bound=8.0)
        settings = dict(annealing=annealing, learning_rate=6e-3, steps=500, samples=64, seed=0)
        return fit_variational(flow, target.log_prob, **settings)

    annealed, direct = fit(350), fit(0)  # over twelve seeds the annealed one's effective sample size is 0.57 to 0.8
    assert annealed.log_z == pytest.approx(0, abs=4 * annealed.log_z_standard_error) and annealed.ess > 0.4
    assert direct.log_z == pytest.approx(math.log(0.7), abs=0.01) and direct.ess > 0.95


def test_a_conditional_flow_is_fitted_at_one_context():
    flow = Flow(2, 3)
    target = Independent(Normal(torch.tensor([1.0, -1.0]), 0.5), 1)
    fit = fit_variational(
        flow, target.log_prob, context=torch.tensor([1.0, 0.0, 2.0]), learning_rate=2e-2, steps=200, seed=0
    )
    assert fit.elbo == pytest.approx(0, abs=0.02)


def test_a_context_that_was_computed_from_parameters_is_one():
    context = torch.nn.Linear(1, 3)(torch.ones(1))
    fit_variational(Flow(2, 3), lambda x: -x.square().sum(-1), context=context, steps=3, samples=8, seed=0)


def test_same_seed_same_fit_and_the_callers_random_numbers_are_left_alone():
    fits = []
    for _ in range(2):
        state = torch.random.get_rng_state()
        flow = Flow(2, flow="triangular").eval()
        fits.append(fit_variational(flow, mixture(1.0).log_prob, **SHORT))
        assert torch.equal(torch.random.get_rng_state(), state) and not flow.training
        torch.rand(1)
    assert fits[0].elbo_curve == fits[1].elbo_curve and fits[0].log_z == fits[1].log_z


def test_a_flow_of_another_library_is_fitted_as_it_is():
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e .[dev]")
    flow = zuko.flows.NSF(2, 0, transforms=1, hidden_features=(16,))
    fit = fit_variational(flow, mixture(1.0).log_prob, **SHORT | dict(steps=30, learning_rate=2e-2))
    assert fit.elbo_curve[-1] > fit.elbo_curve[0]


def test_tensorboard_has_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit = fit_variational(Flow(2), mixture(1.0).log_prob, log_dir=tmp_path, **SHORT)
    events = EventAccumulator(str(tmp_path)).Reload()
    torch.testing.assert_close(
        torch.tensor([scalar.value for scalar in events.Scalars("fit/elbo")]), torch.tensor(fit.elbo_curve)
    )


def test_a_density_that_ceases_to_be_finite_stops_the_fit_with_the_best_weights():
    calls = []

    def log_density(x):
        calls.append(1)
        return mixture(1.0).log_prob(x) * (float("nan") if len(calls) > 10 else 1.0)

    flow = Flow(2)
    with pytest.raises(FloatingPointError, match=r"stopped at step 11: the loss is nan.* finite wherever"):
        fit_variational(flow, log_density, **SHORT)
    assert all(parameter.isfinite().all() for parameter in flow.parameters())


def test_a_density_that_is_not_finite_in_the_last_evaluation_is_named():
    def log_density(x):
        return mixture(1.0).log_prob(x) * (1.0 if x.requires_grad else torch.nan)

    flow = Flow(2)
    with pytest.raises(FloatingPointError, match="log_density is not a number at 10000 of 10000 samples"):
        fit_variational(flow, log_density, steps=2)
    assert all(parameter.isfinite().all() for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(log_density=lambda x: x), r"log_density must map \(256, 2\) to \(256,\), got \(256, 2\)"),
        (dict(log_density=lambda x: x.sum()), r"log_density must map"),
        (dict(annealing=3_000), "annealing must be a whole number from 0 to 2000, got 3000"),
        (dict(annealing="half"), "annealing must be a whole number from 0 to 2000, got 'half'"),
        (dict(samples=0), "samples must be a whole number of at least 1"),
        (dict(context=torch.zeros(3)), "context of size 0"),
        (dict(flow=Flow(2, 3), context=torch.zeros(5, 3)), "one distribution"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_variational(**dict(flow=Flow(2), log_density=lambda x: x.sum(-1)) | arguments)


def test_importance_estimate_of_log_normal_weights():
    """w = e^(m + s g), g standard normal: the bound, log Z = m + s^2 / 2 and ESS = e^(-s^2) are known."""
    torch.manual_seed(0)
    m, s = 3.0, 0.5
    estimate = importance_estimate(m + s * torch.randn(200_000, dtype=torch.float64))
    assert estimate.elbo == pytest.approx(m, abs=4 * estimate.elbo_standard_error)
    assert estimate.log_z == pytest.approx(m + s**2 / 2, abs=4 * estimate.log_z_standard_error)
    assert estimate.ess == pytest.approx(math.exp(-(s**2)), rel=0.02)
    expected_error = math.sqrt((math.exp(s**2) - 1) / 200_000)
    assert estimate.log_z_standard_error == pytest.approx(expected_error, rel=0.02)


def test_importance_estimate_takes_zero_weights_and_huge_ones():
    estimate = importance_estimate(torch.tensor([-math.inf, 2_000.0]))
    assert estimate.log_z == pytest.approx(2_000 - math.log(2)) and estimate.ess == pytest.approx(0.5)
    for log_weights, message in (
        (torch.zeros(2, 2), r"shape \(n,\)"),
        (torch.tensor([-math.inf, -math.inf]), "not all -inf"),
        (torch.tensor([0.0, math.nan]), "maximum is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            importance_estimate(log_weights)
