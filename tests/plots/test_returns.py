"""Pictures of return distributions: densities, whatever the atoms."""

import numpy as np
import pytest

from flowrl.plots.returns import return_figure


class Returns:
    """A critic with these atoms in each of some states."""

    def __init__(self, values, weights):
        self.values, self.weights = np.array(values, np.float32), np.array(weights, np.float32)

    def predict(self, observations, deterministic):
        return observations, None

    def returns(self, observations, actions):
        return self.values, self.weights


def drawn(values, weights):
    """The density and the edges of each panel."""
    figure = return_figure(Returns(values, weights), np.zeros((len(values), 3)))
    return [axes.patches[0].get_data()[:2] for axes in figure.axes]


def test_a_certain_return_is_drawn():
    """One state, and critics that agree: all atoms are one number."""
    ((density, edges),) = drawn([[3.0, 3.0]], [[0.5, 0.5]])
    assert density @ np.diff(edges) == pytest.approx(1)
    assert edges[density.argmax()] <= 3 <= edges[density.argmax() + 1]


def test_equal_atoms_at_equal_distances_are_a_uniform_density():
    """Of two critics with the same 101 atoms; bins hold four of them or six."""
    ((density, edges),) = drawn([np.repeat(np.linspace(-5, 5, 101), 2)], [np.full(202, 1 / 202)])
    assert density @ np.diff(edges) == pytest.approx(1)
    np.testing.assert_allclose(density[2:-2], 0.1, rtol=0.02)


def test_mass_beyond_the_interval_is_seen_at_its_ends():
    weights = np.array([0.7, *np.full(99, 0.1 / 99), 0.2])
    (at_low, edges), (even, _) = drawn([np.linspace(-5, 5, 101)] * 2, [weights, np.full(101, 1 / 101)])
    for density in (at_low, even):
        assert density @ np.diff(edges) == pytest.approx(1)
    bins = at_low * np.diff(edges)
    assert bins[:2].sum() == pytest.approx(0.7, abs=0.01) and bins[-2:].sum() == pytest.approx(0.2, abs=0.01)
