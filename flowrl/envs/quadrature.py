"""Integrals over the action box [-1, 1]^d, by the midpoint rule, and over a squashed Gaussian in it."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
EDGE = 1 - 1e-9  # where tanh(mean) on the edge of the box is taken to be


def grid(points: int = 200, dimensions: int = 2) -> tuple[Array, float]:
    """
    Midpoints of equal cells of the action box: the integral of f is about ``cell * f(actions).sum()``.

    :param points: along each side of the box
    :param dimensions: d
    :return: the midpoints, shape ``(points**d, d)``, and the volume of a cell
    """
    axis = -1 + (np.arange(points) + 0.5) * 2 / points
    actions = np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1)
    return actions.reshape(-1, dimensions), (2 / points) ** dimensions


def squashed_normal_probability(low: Array, high: Array, mean: Array, std: Array) -> Array:
    """
    Probability that tanh(u), with u normal, lies between two numbers.

    :param low: lower ends, in (-1, 1)
    :param high: upper ends, in (-1, 1)
    :param mean: of u
    :param std: of u
    :return: Phi((atanh high - mean) / std) - Phi((atanh low - mean) / std), in the arguments' common shape
    """
    upper, lower = (np.arctanh(high) - mean) / std, (np.arctanh(low) - mean) / std
    return (torch.special.ndtr(torch.as_tensor(upper)) - torch.special.ndtr(torch.as_tensor(lower))).numpy()


def squashed_normals(centers: ArrayLike = (), narrowest: float = 0.02) -> tuple[Array, Array]:
    """
    Means and standard deviations of u, over which the best tanh(u) with u normal is searched.

    :param centers: further values of tanh(mean), in [-1, 1]
    :param narrowest: the least deviation
    :return: both, of one shape: tanh(mean) from -0.9 to 0.9 in steps of 0.05 and at the centers, each with deviations
        from the least to 3, six to a factor of e
    """
    means = np.union1d(np.linspace(-0.9, 0.9, 37), np.clip(np.asarray(centers, float), -EDGE, EDGE))
    deviations = np.geomspace(narrowest, 3.0, round(30 * np.log(3.0 / narrowest) / np.log(150.0)))
    mean, std = np.meshgrid(np.arctanh(means), deviations)
    return mean.ravel(), std.ravel()
