"""The two-dimensional targets: normalised densities, and samples that come from them."""

import math

import pytest
import torch

from experiments.tutorial.targets import ENERGIES, SAMPLED, TARGETS
from experiments.tutorial.targets.blurred import TwoMoons, TwoSpirals
from experiments.tutorial.targets.pinwheel import turn, twist
from experiments.tutorial.targets.target import midpoints

N = 20_000
targets = pytest.mark.parametrize("name", TARGETS)


def drawn(name):
    return TARGETS[name].sample(N, torch.Generator().manual_seed(0))


@targets
def test_density_integrates_to_one(name):
    assert TARGETS[name].mass() == pytest.approx(1, abs=1e-5)


@targets
def test_mean_log_density_of_samples_is_minus_the_entropy(name):
    log_p = TARGETS[name].log_prob(drawn(name))
    error = log_p.std().item() / math.sqrt(N)
    assert -log_p.mean().item() == pytest.approx(TARGETS[name].entropy(), abs=4 * error + 1e-5)


@targets
def test_samples_fill_each_cell_as_the_density_says(name):
    """Chi-squared over a coarse grid: an error of place or of direction shows here, if not in the entropy."""
    target, cells, fine = TARGETS[name], 8, 256
    x, area = midpoints(target.reach, fine)
    mass = area * torch.cat([target.log_prob(part).exp() for part in x.split(4_096)])
    blocks = mass.view(cells, fine // cells, cells, fine // cells).sum((1, 3))
    index = ((drawn(name) + target.reach) / (2 * target.reach) * cells).long().clamp(0, cells - 1)
    counts = torch.zeros(cells, cells).index_put_((index[:, 0], index[:, 1]), torch.ones(N), accumulate=True)
    seen = blocks * N > 5
    statistic = ((counts - blocks * N).square() / (blocks * N))[seen].sum().item()
    freedom = int(seen.sum()) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)
    assert counts[~seen].sum() <= 5 * int((~seen).sum())


@targets
def test_the_same_seed_gives_the_same_samples_and_float32_scores_them_as_float64(name):
    assert torch.equal(drawn(name), drawn(name))
    assert drawn(name).shape == (N, 2) and drawn(name).dtype == torch.float32
    x, log_prob = drawn(name)[:1_000], TARGETS[name].log_prob
    torch.testing.assert_close(log_prob(x).double(), log_prob(x.double()), atol=1e-4, rtol=0)


def test_best_log_likelihood_on_the_checkerboard_is_that_of_32_unit_areas():
    assert SAMPLED["checkerboard"].entropy() == pytest.approx(math.log(32), abs=1e-9)


def test_entropy_of_eight_distant_gaussians_is_that_of_one_and_of_the_choice():
    one = math.log(2 * math.pi * math.e / 8)
    assert SAMPLED["eight Gaussians"].entropy() == pytest.approx(one + math.log(8), abs=1e-2)
    assert SAMPLED["eight Gaussians"].entropy() < one + math.log(8)


@pytest.mark.parametrize(("curves", "nodes"), [(TwoMoons, 256), (TwoSpirals, 768)])
def test_twice_the_nodes_change_no_density_along_a_curve(curves, nodes):
    x = curves().sample(1_000, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(curves().log_prob(x), curves(nodes).log_prob(x), atol=1e-9, rtol=0)


def test_the_twist_of_the_pinwheel_preserves_areas():
    x = torch.randn(20, 2, dtype=torch.float64) * 2
    jacobian = torch.autograd.functional.jacobian(lambda x: turn(x, twist(x)).sum(0), x).movedim(1, 0)
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("name", ENERGIES)
def test_normaliser_agrees_with_a_finer_grid(name):
    energy = ENERGIES[name]
    x, cell = midpoints(energy.reach, 2_000)
    finer = torch.cat([-energy.energy(part) for part in x.split(100_000)]).logsumexp(0).item() + math.log(cell)
    assert energy.log_normalizer == pytest.approx(finer, abs=1e-6)


def test_energies_are_those_of_the_paper():
    """Table 1 at points where the terms are easy to do by hand."""
    e = {name: lambda *z, energy=energy: energy.energy(torch.tensor(z)).item() for name, energy in ENERGIES.items()}
    assert e["U1"](2.0, 0.0) == pytest.approx(0, abs=1e-6)
    assert e["U1"](0.0, 2.0) == pytest.approx(0.5 * (2 / 0.6) ** 2 - math.log(2), abs=1e-5)
    assert e["U2"](1.0, 1.4) == pytest.approx(0.5, abs=1e-5)
    assert e["U3"](1.0, 1.0) == pytest.approx(-math.log(1 + math.exp(-0.5 * (3 / 0.35) ** 2)), abs=1e-6)
    assert e["U3"](1.0, -2.0) == pytest.approx(0, abs=1e-6)
    assert e["U4"](1.0, 1.0 - 1.5) == pytest.approx(0, abs=1e-3)
    assert e["U4"](1.0, 1.0) == pytest.approx(-math.log(1 + math.exp(-0.5 * (1.5 / 0.35) ** 2)), abs=1e-6)


@pytest.mark.parametrize("name", ENERGIES)
def test_a_truncated_density_is_zero_outside(name):
    assert (TARGETS[name].log_prob(torch.tensor([[4.1, 0.0], [0.0, -5.0]])) == -math.inf).all()
