"""Other libraries' flows are exact in a policy: the density scored is the one sampled, and it is a density."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Cauchy,
    Independent,
    MixtureSameFamily,
    Normal,
    StudentT,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform

import flowrl
from flowrl.adapters import ExternalDistribution
from flowrl.flows.flow import Flow
from flowrl.policies.trial import try_in_training
from tests.adapters.external_flows import EXTERNAL, nflows_transform
from tests.environments import Aim
from tests.models import build, build_policy, observations, perturb

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def own_flow(name, features=2, context=3):
    """A flow around another library's, as if it had been trained."""
    torch.manual_seed(0)
    flow = Flow(features, context, EXTERNAL[name])
    perturb(flow, 0.2)
    return flow.eval()


@pytest.mark.parametrize("features", [1, 2, 3, 17])
@pytest.mark.parametrize("name", EXTERNAL)
def test_log_prob_is_that_of_the_sample(float64, name, features):
    flow = own_flow(name, features)
    distribution = flow(torch.randn(5, 3))
    x, log_prob = distribution.rsample_and_log_prob((4,))
    assert x.shape == (4, 5, features) and log_prob.shape == (4, 5)
    torch.testing.assert_close(distribution.log_prob(x), log_prob, atol=1e-6, rtol=1e-6)
    center = distribution.center()
    assert center.shape == (5, features) and center.isfinite().all()


@pytest.mark.parametrize("name", EXTERNAL)
@torch.no_grad()
def test_samples_follow_the_density(float64, name):
    """For x from p, the mean of q(x) / p(x) is one for any density q: a log-determinant of the wrong sign fails."""
    distribution = own_flow(name)(torch.randn(1, 3).expand(20_000, -1))
    x, log_prob = distribution.rsample_and_log_prob()
    q = torch.distributions.MultivariateNormal(x.mean(0), 0.25 * torch.cov(x.T))
    ratio = (q.log_prob(x) - log_prob).exp()
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / len(ratio) ** 0.5


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize("name", EXTERNAL)
@torch.no_grad()
def test_density_integrates_to_one_over_the_action_box(float64, name, algorithm):
    policy = build_policy(algorithm, flow=EXTERNAL[name]).double()
    perturb(policy, 0.1)
    policy.set_training_mode(False)
    n = 200
    u = torch.linspace(-9, 9, n + 1)
    edges = torch.tanh(u)
    middles, widths = torch.tanh((u[1:] + u[:-1]) / 2), edges.diff()
    box = policy.action_space
    low, half = (torch.as_tensor(v, dtype=torch.float64) for v in (box.low, (box.high - box.low) / 2))
    actions = low + half * (torch.cartesian_prod(middles, middles) + 1)
    cells = torch.cartesian_prod(widths, widths).prod(-1) * half.prod()
    density = policy.log_prob(observations(1).double().expand(len(actions), -1), actions).exp()
    assert (density * cells).sum().item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", EXTERNAL)
def test_the_state_moves_the_density(name):
    distribution = own_flow(name)(torch.tensor([[-2.0, 0.0, 1.0], [2.0, 1.0, 0.0]]))
    assert not torch.allclose(distribution.log_prob(torch.zeros(2, 2))[0], distribution.log_prob(torch.zeros(2, 2))[1])


@pytest.mark.parametrize("name", EXTERNAL)
def test_gradients_reach_every_parameter_through_samples_and_through_log_probs(name):
    flow = own_flow(name)
    for through in ("sample", "log_prob"):
        flow.zero_grad()
        distribution = flow(torch.randn(64, 3))
        value = distribution.rsample() if through == "sample" else distribution.log_prob(torch.randn(64, 2))
        value.square().sum().backward()
        dead = [name for name, p in flow.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert not dead, through


@pytest.mark.parametrize("name", [name for name in EXTERNAL if name not in ("nflows-flow", "normflows-conditional")])
def test_an_unconditional_flow_of_it(name):
    torch.manual_seed(0)
    flow = Flow(2, 0, EXTERNAL[name])
    x, log_prob = flow().rsample_and_log_prob((7,))
    torch.testing.assert_close(flow().log_prob(x), log_prob, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", EXTERNAL)
def test_copies_share_nothing(name):
    flow = own_flow(name)
    other = copy.deepcopy(flow)
    context, value = torch.randn(4, 3), torch.randn(4, 2)
    before = flow(context).log_prob(value)
    perturb(other)
    assert torch.equal(flow(context).log_prob(value), before)
    assert not torch.allclose(other(context).log_prob(value), before)


def test_layers_of_several_libraries_make_one_flow():
    pytest.importorskip("nflows", reason="nflows is not installed")

    def mixed(features, context):
        return [nflows_transform(features, context), *flowrl.flows.recipes.find_flow("triangular")(features, context)]

    flow = Flow(2, 3, mixed)
    x, log_prob = flow(torch.randn(5, 3)).rsample_and_log_prob()
    assert x.shape == (5, 2) and log_prob.shape == (5,)


@pytest.mark.parametrize("name", EXTERNAL)
@pytest.mark.parametrize("leading", [(), (1,)], ids=str)
def test_one_value_under_all_contexts(float64, name, leading):
    distribution = own_flow(name)(torch.randn(4, 3))
    x = torch.randn(*leading, 2)
    log_prob = distribution.log_prob(x)
    assert log_prob.shape == (4,)
    torch.testing.assert_close(log_prob, distribution.log_prob(x.expand(4, 2)))


class Modeless(StudentT):
    """With neither a mean nor a mode to be asked for."""

    @property
    def mode(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    "base", [Cauchy(1.0, torch.ones(2)), StudentT(1.0, torch.ones(2)), Modeless(1.0, 1.0)], ids=repr
)
@pytest.mark.parametrize("transforms", [[], [AffineTransform(0.0, 2.0)]], ids=["itself", "transformed"])
def test_the_mode_of_a_base_without_a_mean_is_its_center(base, transforms):
    base = Independent(base.expand((5, 2)), 1)
    distribution = TransformedDistribution(base, transforms) if transforms else base
    center = ExternalDistribution(distribution, 2).center()
    assert center.shape == (5, 2)
    if isinstance(base.base_dist, Modeless):
        densest = base.base_dist.loc * (2 if transforms else 1)
        torch.testing.assert_close(center, densest.expand(5, 2), atol=1.5, rtol=0)
    else:
        torch.testing.assert_close(center, 2 * base.mode if transforms else base.mode)


# -- refusals -------------------------------------------------------------------------------------------------------


def test_a_transform_built_for_another_context_is_refused():
    pytest.importorskip("nflows", reason="nflows is not installed")
    with pytest.raises(ValueError, match="context of size 3: build it for one .context_features"):
        Flow(2, 3, lambda features, context: nflows_transform(features, 0))


def test_a_flow_that_initialises_itself_from_a_batch_is_refused():
    normflows = pytest.importorskip("normflows", reason="normflows is not installed")
    with pytest.raises(ValueError, match="ActNorm gives .* first batch is one state"):
        Flow(2, 3, lambda features, context: [normflows.flows.ActNorm((features,))])


class Mixture(nn.Module):
    """A mixture of Gaussians: torch has densities of it, and no samples that have gradients."""

    def __init__(self, features, context):
        super().__init__()
        self.means = nn.Linear(context, 3 * features)

    def forward(self, context):
        means = self.means(context).unflatten(-1, (3, -1))
        return MixtureSameFamily(Categorical(logits=torch.zeros(means.shape[:-1])), Independent(Normal(means, 1.0), 1))


def zuko_mixture(features, context):
    return pytest.importorskip("zuko", reason="zuko is not installed").flows.GMM(features, context)


def planar(features, context):
    return [pytest.importorskip("normflows", reason="normflows is not installed").flows.Planar((features,))]


def batch_norm(features, context):
    return pytest.importorskip("nflows.transforms", reason="nflows is not installed").BatchNorm(features)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
@pytest.mark.parametrize("flow", [Mixture, zuko_mixture])
def test_a_distribution_without_gradients_of_samples_is_refused_at_once(flow, algorithm):
    with pytest.raises(ValueError, match='Mixture.* has none .has_rsample=False.: flow="nsf" or "naf"'):
        build_policy(algorithm, flow=flow)


def test_a_distribution_that_does_not_say_that_it_has_rsample_is_taken():
    class Forgetful(torch.distributions.Distribution):
        def rsample(self, sample_shape=()):
            return torch.zeros(*sample_shape, 2)

        def log_prob(self, value):
            return value.sum(-1)

    assert ExternalDistribution(Forgetful(event_shape=torch.Size([2]), validate_args=False), 2).rsample().shape == (2,)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO"])
def test_a_flow_without_an_inverse_is_refused_where_given_actions_are_scored(algorithm):
    with pytest.raises(ValueError, match=r"log-probs of given actions.*log_prob fails .*no algebraic inverse.*nsf"):
        build_policy(algorithm, flow=planar)
    assert build_policy("SAC", flow=planar).predict(observations(2).numpy())[0].shape == (2, 2)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_flow_that_gives_no_samples_in_training_is_refused(algorithm):
    with pytest.raises(ValueError, match=r"in training, and its rsample fails .InverseNotAvailable"):
        build_policy(algorithm, flow=batch_norm)
    Flow(2, 0, batch_norm)  # which a fit to data can train


@pytest.mark.parametrize("scores", [True, False])
def test_the_trial_leaves_the_flow_and_random_numbers_alone(scores):
    flow = Flow(2, 3, EXTERNAL["torch-transformed"]).eval()
    state = torch.get_rng_state()
    try_in_training(flow, scores)
    assert torch.equal(state, torch.get_rng_state()) and not flow.training


def test_a_distribution_of_something_computed_from_a_parameter_is_refused():
    def stale(features, context):
        scale = nn.Parameter(torch.zeros(features)).exp()
        return TransformedDistribution(Independent(Normal(0.0, scale), 1), [AffineTransform(0.0, 2.0)])

    with pytest.raises(ValueError, match="Normal.scale is computed from a parameter.*return a module"):
        Flow(2, 3, stale)


def test_a_warm_start_needs_a_flow_that_starts_as_a_gaussian():
    pytest.importorskip("nflows", reason="nflows is not installed")
    gaussian = build("SAC", policy="MlpPolicy")
    with pytest.raises(ValueError, match="no Gaussian start"):
        flowrl.from_gaussian(gaussian, flow=nflows_transform)


# -- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTERNAL)
def test_unmodified_sac_learns_with_it(name):
    """Stable-Baselines3's own SAC, 3,000 steps of a bandit: from -0.21 to nearly the optimum, which is 0."""
    from tests.policies.test_learning import UNTRAINED, evaluate_bandit

    schedule = dict(learning_starts=100, train_freq=4, gradient_steps=2, batch_size=64, learning_rate=3e-3)
    model = build("SAC", Aim(horizon=1), policy_kwargs=dict(flow=EXTERNAL[name]), **schedule)
    assert evaluate_bandit(model) < UNTRAINED
    model.learn(3_000)
    score = evaluate_bandit(model)
    print(f"{name}: {score:.4f}")
    assert score > -0.03
