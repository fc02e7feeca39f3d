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
    """Of two critics with the same 101 atoms, of which a bin would hold four or six."""
    ((density, edges),) = drawn([np.repeat(np.linspace(-5, 5, 101), 2)], [np.full(202, 1 / 202)])
    assert density @ np.diff(edges) == pytest.approx(1)
    np.testing.assert_allclose(density[1:-1], 10 / 101, rtol=0.02)


@pytest.mark.parametrize(
    ("atoms", "weights"),
    [
        (np.linspace(-5, 5, 101), [0.7, *np.full(99, 0.1 / 99), 0.2]),  # much of it at the ends of the interval
        ([1.0, 3.0], [0.25, 0.75]),  # two critics that know a mean alone
        ([5.0, 5.0, 5.0, 9.0], np.full(4, 0.25)),
    ],
)
def test_mass_is_drawn_where_it_is(atoms, weights):
    ((density, edges),) = drawn([atoms], [weights])
    mass = density * np.diff(edges)
    assert mass.sum() == pytest.approx(1)
    for at in (min(atoms), max(atoms)):
        (bin,) = np.flatnonzero((edges[:-1] <= at) & (at < edges[1:]))
        assert mass[bin] == pytest.approx(np.asarray(weights)[np.asarray(atoms) == at].sum(), abs=0.01)
