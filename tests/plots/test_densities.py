"""Pictures of densities, samples and transforms: what is on them, from any library's distributions."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT, TransformedDistribution
from torch.distributions.transforms import AffineTransform, IndependentTransform, SoftplusTransform

from flowrl import Flow
from flowrl.plots.densities import LINE, plot_curve, plot_density, plot_samples, plot_transform, share_colors

CENTER = torch.tensor([0.5, -0.5])


def narrow_gaussian():
    return Independent(Normal(CENTER, 0.1), 1)


def flow():
    """This library's, at its start: the Gaussian with that mean and scale."""
    flow = Flow(2, flow="nsf")
    flow.set_gaussian(torch.zeros(2, 0), CENTER, None, torch.full((2,), 0.1).log())
    return flow()


def zuko_flow():
    zuko = pytest.importorskip("zuko")
    to_noise = IndependentTransform(AffineTransform(-10 * CENTER, 10.0), 1)
    return zuko.distributions.NormalizingFlow(to_noise, zuko.distributions.DiagNormal(torch.zeros(2), torch.ones(2)))


def float64_gaussian():
    return MultivariateNormal(CENTER.double(), 0.01 * torch.eye(2, dtype=torch.float64))


@pytest.fixture(autouse=True)
def keep_validation(monkeypatch):
    """Zuko switches torch's checks off where it is imported."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)


def darkest(axes):
    image = axes.images[0]
    row, column = np.unravel_index(image.get_array().argmax(), image.get_array().shape)
    left, right, bottom, top = image.get_extent()
    rows, columns = image.get_array().shape
    return left + (right - left) * (column + 0.5) / columns, bottom + (top - bottom) * (row + 0.5) / rows


def test_a_curve_is_the_density():
    axes = Figure().subplots()
    plot_curve(Independent(Normal(torch.zeros(1), 1.0), 1), axes, -5, 5)
    x, density = axes.lines[0].get_data()
    assert (density * (x[1] - x[0])).sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("make", [narrow_gaussian, float64_gaussian, flow, zuko_flow])
def test_each_variable_is_on_its_axis_whosever_the_distribution(make):
    axes, histogram = Figure().subplots(1, 2)
    plot_density(make(), axes, -1, 1)
    assert darkest(axes) == pytest.approx(CENTER.tolist(), abs=0.05)
    assert axes.get_xlim() == axes.get_ylim() == (-1, 1)
    plot_samples(make(), histogram, -1, 1, n_samples=1_000)
    counts, edges = histogram.images[0].get_array(), np.linspace(-1, 1, 41)
    y, x = (counts.sum(axis) @ (edges[:-1] + 0.025) / counts.sum() for axis in (1, 0))
    assert (x, y) == pytest.approx(CENTER.tolist(), abs=0.05)


def test_a_log_density_will_do_and_sides_may_differ():
    axes = Figure().subplots()
    plot_density(narrow_gaussian().log_prob, axes, (0, -1), (1, 3))
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (-1, 3))
    assert darkest(axes) == pytest.approx(CENTER.tolist(), abs=0.05)


def test_a_colour_means_the_same_density_in_panels_that_share_them():
    panels = Figure().subplots(1, 3)
    wide = Independent(Normal(CENTER, 0.2), 1)
    plot_density(wide, panels[0], -1, 1)
    plot_density(narrow_gaussian(), panels[1], -1, 1)
    plot_samples(wide, panels[2], -1, 1, n_samples=100_000)
    own = [panel.images[0].norm.vmax for panel in panels[:2]]
    assert own == pytest.approx([1 / (2 * np.pi * 0.2**2), 1 / (2 * np.pi * 0.1**2)], rel=0.02)
    assert panels[2].images[0].norm.vmax == pytest.approx(own[0], rel=0.3)
    share_colors(panels)
    assert [panel.images[0].norm.vmax for panel in panels[:2]] == [own[1], own[1]]
    assert panels[2].images[0].norm.vmax == own[1]


@pytest.mark.parametrize("log_prob", [float("-inf"), float("nan"), float("inf")])
def test_densities_that_are_not_finite_do_not_stop_training(log_prob):
    figure = Figure()
    plot_density(lambda x: torch.full((len(x),), log_prob), figure.subplots(), -1, 1)
    plot_curve(lambda x: torch.full((len(x),), log_prob), figure.add_subplot(), -1, 1)
    figure.savefig(io.BytesIO())


def test_samples_on_the_edge_are_counted():
    axes = Figure().subplots()
    plot_samples(np.array([[-1.0, 1.0], [1.0, 1.0]]), axes, -1, 1, bins=2)
    assert axes.images[0].get_array().sum() == pytest.approx(1)  # a density of cells with the area 1


@pytest.mark.parametrize(
    "distribution", [Independent(Normal(torch.zeros(3), 1.0), 1), Independent(Normal(torch.zeros(4, 2), 1.0), 1)]
)
def test_a_distribution_that_is_not_one_over_pairs_is_refused(distribution):
    with pytest.raises(ValueError, match="size 2.*shape"):
        plot_density(distribution, Figure().subplots())
    with pytest.raises(ValueError, match="shape"):
        plot_samples(distribution, Figure().subplots())


@pytest.mark.parametrize(
    "transform",
    [
        AffineTransform(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.5])),
        lambda x: x * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, 0.0]),
    ],
)
def test_a_transform_moves_the_lines_of_the_grid(transform):
    axes = Figure().subplots()
    plot_transform(transform, axes, -1, 1, lines=3, points=5)
    vertical, horizontal = axes.collections
    assert tuple(vertical.get_color()[0]) == to_rgba(LINE)
    assert [set(line[:, 0]) for line in vertical.get_segments()] == [{-1}, {1}, {3}]
    assert [set(line[:, 1]) for line in horizontal.get_segments()] == [{-0.5}, {0}, {0.5}]
    assert axes.get_xlim()[0] <= -1 and axes.get_xlim()[1] >= 3


def test_flows_and_torch_transforms_of_vectors_are_drawn():
    heavy = TransformedDistribution(Independent(StudentT(torch.full((2,), 3.0)), 1), [SoftplusTransform()])
    figure = Figure()
    plot_transform(flow().transform, figure.add_subplot(121))
    plot_density(heavy, figure.add_subplot(122), 0.01, 4)
    figure.savefig(io.BytesIO())
