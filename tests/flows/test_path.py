"""Flows with noise layers: the density of a path is exact, and the entropy of its end is bounded from below."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from flowrl import fit_variational
from flowrl.flows.path import PathFlow
from flowrl.policies.action_path import ActionPath
from tests.models import perturb

pytestmark = pytest.mark.usefixtures("float64")

RECIPES = {"triangular": {}, "realnvp": dict(hidden=(8,)), "nsf": dict(hidden=(8,)), "gaussian": {}}


def path_flow(d: int, flow: str = "triangular", context: int = 0, scale: float = 0.0, **kwargs) -> PathFlow:
    made = PathFlow(d, context, flow, **RECIPES[flow], **kwargs)
    perturb(made, scale)
    return made


@pytest.mark.parametrize("noise_layers", [1, 2])
@pytest.mark.parametrize("flow", ["triangular", "realnvp", "nsf"])
def test_path_density_is_the_change_of_variables_of_all_noise(flow, noise_layers):
    """log N(noise) - log|det d path / d noise| by autograd, whatever formula the density itself goes by."""
    distribution = path_flow(2, flow, scale=0.3, noise_layers=noise_layers)()

    def path_of(noise: torch.Tensor) -> torch.Tensor:
        return distribution._walk(noise.unflatten(-1, (-1, 2)).unbind(-2))[0]

    for noise in torch.randn(5, 2 * (noise_layers + 1)):
        jacobian = torch.autograd.functional.jacobian(path_of, noise)
        expected = Normal(0.0, 1.0).log_prob(noise).sum() - jacobian.slogdet().logabsdet
        path = path_of(noise)
        torch.testing.assert_close(distribution.path_log_prob(path), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("noise_layers", [1, 2])
@pytest.mark.parametrize("flow", ["triangular", "realnvp", "nsf", "gaussian"])
def test_both_passes_agree(flow, noise_layers):
    noise_layers = min(noise_layers, 1) if flow == "gaussian" else noise_layers
    distribution = path_flow(2, flow, context=3, scale=0.2, noise_layers=noise_layers)(torch.randn(7, 3))
    path, log_prob = distribution.rsample_and_path_log_prob((4,))
    assert path.shape == (4, 7, 2 * (noise_layers + 1)) and log_prob.shape == (4, 7)
    torch.testing.assert_close(distribution.path_log_prob(path), log_prob, atol=1e-10, rtol=1e-10)
    again, log_prob, way_back = distribution.rsample_with_way_back((4,))
    torch.testing.assert_close(distribution.path_log_prob(again), log_prob, atol=1e-10, rtol=1e-10)
    assert way_back.shape == (4, 7)


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_path_density_integrates_to_one(scale):
    distribution = path_flow(1, scale=scale)()
    density, cell, _ = density_on_grid(distribution)
    assert (density.sum() * cell).item() == pytest.approx(1.0, abs=5e-4)


def density_on_grid(distribution) -> tuple[torch.Tensor, float, torch.Tensor]:
    """p(w_0, u) of one noise layer in one dimension, rows w_0 and columns u; the cells' area; the u."""
    w, u = torch.linspace(-8, 8, 401), torch.linspace(-10, 10, 501)
    with torch.no_grad():
        density = distribution.path_log_prob(torch.cartesian_prod(w, u)).exp().view(len(w), len(u))
    return density, ((w[1] - w[0]) * (u[1] - u[0])).item(), u


def test_the_end_of_paths_has_the_marginal_of_their_density():
    distribution = path_flow(1, scale=0.4)()
    density, cell, u = density_on_grid(distribution)
    marginal = density.sum(0) * cell / (u[1] - u[0])
    mass = marginal * (u[1] - u[0])
    cumulative = mass.cumsum(0) - mass / 2  # at the middle of a cell
    ends = distribution.rsample((40_000,))[:, -1].sort().values
    empirical = torch.searchsorted(ends, u, side="right") / len(ends)
    assert (empirical - cumulative).abs().max() < 0.012  # Kolmogorov-Smirnov, at 40,000 draws 0.0081 with p = 0.01


@pytest.mark.parametrize("noise_layers", [1, 2])
@pytest.mark.parametrize("flow", ["triangular", "realnvp", "nsf"])
def test_a_new_flow_ends_in_the_gaussian_of_its_context(flow, noise_layers):
    made = path_flow(2, flow, context=3, noise_layers=noise_layers, noise_std=0.7)
    made.set_gaussian(torch.randn(2, 3), torch.tensor([1.0, -2.0]), None, torch.tensor([0.3, -0.5]))
    context = torch.randn(1, 3)
    mean = context @ made.context_map.weight[:2].T + made.context_map.bias[:2]
    ends = made(context).rsample((60_000,))[:, 0, -2:]
    std = torch.tensor([0.3, -0.5]).exp()
    assert ((ends.mean(0) - mean[0]) / std).abs().max() < 0.02
    covariance = torch.cov(((ends - mean) / std).T)
    torch.testing.assert_close(covariance, torch.eye(2), atol=0.03, rtol=0)
    center = made(context).center()
    torch.testing.assert_close(center[..., -2:], mean)


def test_noise_keeps_a_standard_normal_and_loses_the_past():
    step = path_flow(1, "gaussian", noise_std=0.6)().steps[0]
    w, y = torch.randn(2, 50_000, 1)
    y, log_forward = step.sample(w, y)
    torch.testing.assert_close(log_forward, Normal(0.8 * w, 0.6).log_prob(y).squeeze(-1))
    torch.testing.assert_close(step.log_forward(y, w), log_forward)
    assert y.std().item() == pytest.approx(1.0, abs=0.02)
    assert torch.corrcoef(torch.cat((w, y), 1).T)[0, 1].item() == pytest.approx(0.8, abs=0.02)


def test_backward_kernel_is_a_density():
    step = path_flow(1, "gaussian", scale=0.5)().steps[0]
    w = torch.linspace(-12, 12, 4_001)[:, None]
    for y in (-1.0, 0.5):
        total = step.log_backward(w, torch.full_like(w, y)).exp().sum() * (w[1] - w[0])
        assert total.item() == pytest.approx(1.0, abs=1e-6)


def quadrature_entropy(distribution) -> float:
    """Of a = tanh(u), from the marginal on a grid of u."""
    density, cell, u = density_on_grid(distribution)
    marginal = density.sum(0) * cell / (u[1] - u[0])
    log_density = marginal.clamp_min(1e-300).log() + 2 * u.cosh().log()
    return -(marginal * log_density * (u[1] - u[0])).sum().item()


def entropy_bound(distribution, n: int = 40_000) -> float:
    torch.manual_seed(3)
    return ActionPath(distribution, squash=True).entropy_bound(n).mean().item()


def bent(noise_std: float) -> PathFlow:
    """A flow far from a Gaussian, whose noise is that which is asked for."""
    made = path_flow(1, scale=0.5, layers=1, noise_std=noise_std)
    with torch.no_grad():
        made.context_map.bias[1] = -0.5  # of moderate width
        spline = made.context_map.bias[2:25]
        spline += 1.5 * torch.randn(23, generator=torch.Generator().manual_seed(0))
        made.context_map.bias[25] = 0.5 * math.log(noise_std**2 / (1 - noise_std**2))
    return made


def test_the_entropy_bound_lies_below_and_training_the_backward_kernel_lifts_it():
    made = bent(0.6)
    exact, before = quadrature_entropy(made()), entropy_bound(made())
    assert before < exact - 0.02
    noise = made.layers[1]
    backward = [*noise.hidden_layer.parameters(), *noise.output_layer.parameters()]
    optimizer = torch.optim.Adam(backward, lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (-ActionPath(made(), squash=True).entropy_bound(128)).backward()
        optimizer.step()
    after = entropy_bound(made())
    assert quadrature_entropy(made()) == exact
    assert before + 0.4 * (exact - before) < after < exact + 0.01


@torch.no_grad()
def test_the_entropy_bound_closes_as_the_noise_goes_to_zero():
    """With a backward kernel that nobody has trained."""
    gaps = []
    for noise_std in (0.6, 0.3, 0.1):
        made = bent(noise_std)
        gaps.append(quadrature_entropy(made()) - entropy_bound(made()))
    assert gaps[0] > 0.02
    assert -0.005 < gaps[2] < gaps[0] / 10 and gaps[1] < gaps[0]


@torch.no_grad()
def test_the_entropy_bound_of_a_new_flow_is_exact():
    """Path by path: the backward kernel is the forward one, of a reversible process."""
    distribution = path_flow(2, "nsf", noise_layers=2)()
    path, log_prob, way_back = distribution.rsample_with_way_back((100,))
    torch.testing.assert_close(log_prob - way_back, Normal(0.0, 1.0).log_prob(path[:, -2:]).sum(-1))


def test_gradients_reach_every_parameter():
    made = path_flow(2, "nsf", context=3, scale=0.1, noise_layers=2)
    ActionPath(made(torch.randn(16, 3)), squash=True).entropy_bound(2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())


@pytest.mark.parametrize("raw", [-50.0, -4.0, 0.0, 50.0])
def test_noise_of_any_raw_parameter_is_finite(raw):
    made = path_flow(1, "gaussian", context=0).float()
    with torch.no_grad():
        made.context_map.bias[2] = raw
    step = made().steps[0]
    assert math.exp(-5.001) < step.log_std.exp().item() <= 1.0
    path, log_prob, way_back = made().rsample_with_way_back((64,))
    assert path.isfinite().all() and log_prob.isfinite().all() and way_back.isfinite().all()
    (log_prob.sum() + way_back.sum()).backward()
    assert made.context_map.bias.grad.isfinite().all()


def test_float32_scores_a_stored_path_as_it_drew_it():
    made = path_flow(2, "nsf", scale=0.1, noise_std=0.1).float()
    path, log_prob = made().rsample_and_path_log_prob((256,))
    torch.testing.assert_close(made().path_log_prob(path), log_prob, atol=2e-3, rtol=0)


@pytest.mark.parametrize("flow", ["triangular", "nsf"])
def test_paths_of_another_precision_are_cast_and_of_another_size_refused(flow):
    distribution = path_flow(2, flow, context=3, scale=0.1)(torch.randn(5, 3))
    path = distribution.rsample().float()
    for method in ("path_log_prob", "log_det"):
        score = getattr(distribution, method)
        torch.testing.assert_close(score(path), score(path.double()))
        assert score(path[0]).shape == (5,)
        for wrong in (torch.zeros(5, 2), torch.zeros(5, 6)):
            with pytest.raises(ValueError, match=r"A path has 4 numbers, got a tensor of shape \(5, "):
                score(wrong)


@pytest.mark.parametrize("noise_layers", [0, -1, 1.5, True])
def test_a_number_of_noise_layers_is_an_integer(noise_layers):
    with pytest.raises(ValueError, match="noise_layers must be a whole number of at least 1"):
        PathFlow(2, noise_layers=noise_layers)


@pytest.mark.parametrize("noise_std", [0.0, 1.0, -0.1, "a"])
def test_noise_is_a_part_of_one(noise_std):
    with pytest.raises(ValueError, match="noise_std must be a number between 0 and 1"):
        PathFlow(2, noise_std=noise_std)


def test_more_noise_than_layers_is_refused():
    with pytest.raises(ValueError, match="noise_layers=3 is more than the 2 layers of flow 'nsf'"):
        PathFlow(2, flow="nsf", noise_layers=3)


def test_noise_in_a_module_of_another_library_is_refused():
    with pytest.raises(ValueError, match="noise_layers=1: noise goes between the layers"):
        PathFlow(2, flow=lambda features, context: nn.Linear(features, features))


@pytest.mark.parametrize("flow", [[], lambda features, context: nn.ModuleList()], ids=["list", "ModuleList"])
def test_a_list_of_layers_may_have_noise(flow):
    assert PathFlow(2, flow=flow)().rsample((3,)).shape == (3, 4)


def test_what_needs_a_transform_is_refused():
    with pytest.raises(TypeError, match="no transform"):
        PathFlow(2).transform_of(torch.zeros(100))
    with pytest.raises(TypeError, match="no start from data"):
        PathFlow(2).initialize(torch.randn(8, 2))
    with pytest.raises(NotImplementedError, match="no log_prob: .* integral over all paths .* path_log_prob"):
        fit_variational(PathFlow(2), lambda x: -x.square().sum(-1), steps=1)


@torch.no_grad()
@pytest.mark.parametrize("flow", ["triangular", "maf"])  # one that the kernels know, one that they do not
def test_the_bound_of_the_scale_is_the_last_segments(flow):
    torch.manual_seed(0)
    path = PathFlow(2, flow=flow, log_std_max=0.0)
    path.context_map.bias[2:4] = 5.0
    assert path().rsample((2_000,))[:, -2:].std(0).max() < 1.1 * math.e
    path.log_std_max = 2.0
    assert path().rsample((2_000,))[:, -2:].std(0).min() > 0.9 * math.e**3


def test_paths_run_on_the_device_of_their_weights():
    meta = torch.device("meta")
    distribution = PathFlow(2, 3, "nsf", noise_layers=2).to(meta)(torch.empty(4, 3, device=meta))
    paths = ActionPath(distribution, squash=True)
    path, log_prob = paths.rsample_and_path_log_prob((2,))
    assert path.shape == (2, 4, 6) and log_prob.device == meta
    (paths.path_log_prob(path).sum() + paths.entropy_bound(2).sum()).backward()
    assert paths.center().device == meta
