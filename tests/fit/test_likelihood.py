"""Maximum likelihood: the fit finds known densities, keeps the best weights, and says what is wrong with its input."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import flowrl
from flowrl import Flow, fit_density
from flowrl.fit import DensityFit

SHORT = dict(steps=30, batch_size=64, seed=0)


@pytest.fixture
def data():
    torch.manual_seed(0)
    return torch.randn(400, 2)


def weights(flow: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in flow.parameters()]).clone()


def test_finds_the_entropy_of_a_gaussian():
    """With 20,000 points the maximum of the likelihood is known: minus the Gaussian's entropy, within its error."""
    torch.manual_seed(0)
    factor = torch.tensor([[1.5, 0.0, 0.0], [1.0, 0.3, 0.0], [-1.0, 0.2, 0.8]])
    gaussian = MultivariateNormal(torch.tensor([1.0, -2.0, 0.5]), scale_tril=factor)
    flow = Flow(3, flow="affine")
    test = gaussian.sample((20_000,))
    fit = fit_density(flow, gaussian.sample((20_000,)), steps=500, learning_rate=3e-2, validation=test, seed=0)
    log_prob = gaussian.log_prob(test)
    error = (flow().log_prob(test) - log_prob).mean().item()
    assert abs(error) < 2e-3, "the flow is the Gaussian: a handful of parameters cost k / 2n nats"
    assert fit.log_likelihood == pytest.approx(log_prob.mean().item(), abs=2e-3)
    assert fit.log_likelihood == pytest.approx(-gaussian.entropy().item(), abs=4 * log_prob.std().item() / 20_000**0.5)


def test_fits_a_conditional_density():
    """x | c ~ N(sin 2c, (0.1 + 0.2 |c|)^2): the likelihood comes near that of the truth, far from the marginal's."""
    torch.manual_seed(0)
    context = 3 * torch.rand(6_000, 1) - 1.5
    truth = Independent(Normal((2 * context).sin(), 0.1 + 0.2 * context.abs()), 1)
    data = truth.sample()

    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
            self.flow = Flow(1, 32)

        def forward(self, context):
            return self.flow(self.trunk(context))

    model = Conditional()
    fit = fit_density(model, data, context, learning_rate=1e-2, steps=300, seed=0)
    gap = (truth.log_prob(data) - model(context).log_prob(data)).mean().item()
    assert abs(gap) < 0.05
    assert fit.validation[-1] > fit.validation[0] + 0.5


def test_the_best_weights_are_restored():
    """A large flow on 40 points overfits: the weights it ends with are those of the curve's maximum, not the last."""
    torch.manual_seed(0)
    flow, validation = Flow(2, flow="nsf"), torch.randn(500, 2)
    fit = fit_density(
        flow, torch.randn(40, 2), validation=validation, learning_rate=2e-2, steps=200, patience=None, seed=0
    )
    best = max(range(len(fit.steps)), key=fit.validation.__getitem__)
    assert fit.steps[-1] == 200 and 0 <= fit.best_step < 200 and fit.best_step == fit.steps[best]
    assert fit.validation[-1] < fit.validation[best] - 0.05 and fit.train[-1] > fit.train[best]
    assert fit.log_likelihood == pytest.approx(fit.validation[best], abs=1e-6)
    assert flow().log_prob(validation).mean().item() == pytest.approx(fit.validation[best], abs=1e-5)


def test_stops_once_patience_is_over():
    torch.manual_seed(0)
    flow = Flow(2, flow="nsf")
    fit = fit_density(
        flow, torch.randn(40, 2), validation=torch.randn(500, 2), learning_rate=1e-2, steps=1_000, patience=50, seed=0
    )
    assert fit.steps[-1] == fit.best_step + 50 < 1_000


def test_patience_is_counted_where_the_fit_is_evaluated(data):
    """Every 10 of 1,000 steps: a shorter patience does not stop a fit before it could have got better."""
    fit = fit_density(Flow(2), data + 5, steps=1_000, patience=1, learning_rate=3e-2, seed=0)
    assert fit.best_step >= 10


def test_validation_by_fraction_by_data_or_not_at_all(data):
    fraction = fit_density(Flow(2), data, validation=np.float32(0.25), **SHORT)
    given = fit_density(Flow(2), data, validation=data[:50], **SHORT)
    none = fit_density(Flow(2), data, validation=0.0, **SHORT)
    assert fraction.steps == given.steps == none.steps == list(range(31))
    assert len(fraction.validation) == len(given.validation) == len(fraction.train) == len(none.train) == 31
    assert none.validation == [] and math.isnan(none.log_likelihood) and none.best_step == 30
    context = torch.randn(400, 3)
    pair = fit_density(Flow(2, 3), data, context, validation=(data[:50], context[:50]), **SHORT)
    assert isinstance(pair, DensityFit) and len(pair.validation) == 31


def test_one_row_is_fitted_without_a_warning(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_density(Flow(2, flow="gaussian"), data[:1], validation=0, steps=3)
    assert fit.train[-1] > fit.train[0]


def test_a_fraction_is_held_out_of_training(data):
    seen = []

    class Spy(Flow):
        def forward(self, context=None):
            if self.training:
                seen.append(context)
            return super().forward(context)

    fit_density(Spy(2, 1), data, torch.linspace(-1, 1, 400)[:, None], validation=0.25, **SHORT | dict(batch_size=100))
    epochs = torch.cat(seen[-30:]).view(-1, 300)
    assert all(len(epoch.unique()) == 300 for epoch in epochs), "each epoch sees each training row once"
    assert len(epochs.unique()) == 300, "and never another"


def test_same_seed_same_fit_and_the_callers_random_numbers_are_left_alone(data):
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        flow = Flow(2, flow="nsf")
        torch.rand(len(results))
        state = torch.random.get_rng_state()
        fit = fit_density(flow, data, **SHORT)
        assert torch.equal(torch.random.get_rng_state(), state)
        results.append((weights(flow), fit.validation))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]


def test_modes_and_frozen_parameters_stay_as_they_were(data):
    flow = Flow(2, flow="realnvp").train()
    flow.layers[1].eval()
    frozen = flow.layers[0].conditioner.linears[0].weight.requires_grad_(False)
    before = frozen.clone()
    fit_density(flow, data, **SHORT)
    assert flow.training and not flow.layers[1].training
    assert torch.equal(frozen, before)
    flow.eval()
    fit_density(flow, data, **SHORT)
    assert not flow.training


def test_a_flow_of_another_library_is_fitted_as_it_is(data):
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e .[dev]")
    flow = zuko.flows.MAF(2, 0, transforms=1, hidden_features=(16,))
    fit = fit_density(flow, 3 + 0.5 * data, **SHORT | dict(learning_rate=1e-2))
    assert fit.log_likelihood > fit.validation[0] + 0.5


def test_data_and_context_that_were_computed_from_parameters_are_data():
    encoder = nn.Linear(2, 2)
    x = encoder(torch.randn(64, 2))
    fit_density(Flow(2, 2), x, context=x, **SHORT)
    assert encoder.weight.grad is None


def test_precision_is_the_flows():
    flow = Flow(2).double()
    fit_density(flow, torch.randn(100, 2), **SHORT)
    assert all(parameter.dtype == torch.float64 for parameter in flow.parameters())


def test_tensorboard_has_the_curves(data, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit = fit_density(Flow(2), data, log_dir=tmp_path, progress=True, **SHORT)
    events = EventAccumulator(str(tmp_path)).Reload()
    for name, curve in (("train", fit.train), ("validation", fit.validation)):
        scalars = events.Scalars(f"fit/{name}")
        assert [scalar.step for scalar in scalars] == fit.steps
        torch.testing.assert_close(torch.tensor([scalar.value for scalar in scalars]), torch.tensor(curve))
    assert "30/30" in capsys.readouterr().out


def bad(rows: torch.Tensor, value: float) -> torch.Tensor:
    rows = rows.clone()
    rows[7, 1] = value
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: dict(data=bad(data, float("nan"))), "data must be finite; 1 of 400 rows .* row 7"),
        (lambda data: dict(data=bad(data, float("inf"))), "data must be finite"),
        (lambda data: dict(data=data[:, 0]), r"data must be .* shape \(n, features\)"),
        (lambda data: dict(data=data.long()), "data must be floating-point"),
        (lambda data: dict(data=data[:, :1]), r"data must have shape \(n, 2\), got \(400, 1\)"),
        (lambda data: dict(data=data, context=data[:5]), r"context must have shape \(400, size\)"),
        (lambda data: dict(data=data, context=data), "context of size 0"),
        (lambda data: dict(data=data, validation=1.0), r"validation must be a fraction in \[0, 1\)"),
        (lambda data: dict(data=data, validation=1e-4), "leaves rows"),
        (lambda data: dict(data=data, validation=(data, data)), "validation must be data alone"),
        (lambda data: dict(data=data, validation=bad(data, float("nan"))), "validation must be finite"),
        (lambda data: dict(data=data, steps=0), "steps must be a whole number of at least 1"),
        (lambda data: dict(data=data, batch_size=2.5), "batch_size must be a whole number of at least 1"),
        (lambda data: dict(data=data, learning_rate=math.inf), "learning_rate must be a number above 0"),
        (lambda data: dict(data=data, patience=0), "patience must be a whole number of at least 1"),
    ],
)
def test_wrong_input_is_named(data, change, message):
    with pytest.raises(ValueError, match=message):
        fit_density(Flow(2), **change(data))


def test_a_flow_without_parameters_is_refused(data):
    with pytest.raises(ValueError, match="must have parameters to train"):
        fit_density(Flow(2).requires_grad_(False), data)


def test_a_loss_that_is_not_finite_stops_the_fit_with_the_best_weights(data):
    class Breaks(Flow):
        calls = 0

        def forward(self, context=None):
            distribution = super().forward(context)
            if self.training:
                self.calls += 1
                if self.calls > 10:
                    log_prob = distribution.log_prob
                    distribution.log_prob = lambda value: log_prob(value) * float("nan")
            return distribution

    flow = Breaks(2).train()
    before = weights(flow)
    with pytest.raises(FloatingPointError, match="stopped at step 11: the loss is nan.* weights of step 10"):
        fit_density(flow, data + 3, **SHORT)
    assert weights(flow).isfinite().all() and not torch.equal(weights(flow), before)
    assert flow.training
    assert flow.eval()().log_prob(data + 3).mean() > Flow(2)().log_prob(data + 3).mean()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_a_gpu(data):
    flow = Flow(2)
    fit = fit_density(flow, data, device="cuda", **SHORT)
    assert flow.context_map.bias.is_cuda and math.isfinite(fit.log_likelihood)


def test_is_public():
    assert flowrl.fit_density is fit_density
