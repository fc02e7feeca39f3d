"""The contract of a two-dimensional target: exact samples, exact log-density, and what quadrature says of it."""

import torch
from torch import Tensor

NODES_AT_ONCE = 4_096  # points whose log-density is evaluated together


class Target:
    """
    A density on the plane that is known exactly.

    :param reach: half the side of the square around the origin that holds all of the mass but a millionth
    """

    def __init__(self, reach: float):
        self.reach = reach

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """
        :param n: number of draws
        :param generator: of the random numbers; torch's own by default
        :return: independent draws, shape ``(n, 2)``
        """
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """
        :param x: shape ``(*, 2)``
        :return: log-density in nats, normalised, shape ``(*,)``; minus infinity outside the support
        """
        raise NotImplementedError

    def mass(self, points: int = 256) -> float:
        """
        The integral of the density over the square, 1 if the grid resolves it.

        :param points: midpoints along each side
        """
        return self._quadrature(points)[0]

    def entropy(self, points: int = 256) -> float:
        """
        Minus the best mean log-likelihood that any model can have on held-out samples, by the midpoint rule.

        :param points: midpoints along each side
        :return: nats
        """
        return self._quadrature(points)[1]

    def _quadrature(self, points: int) -> tuple[float, float]:
        x, cell = midpoints(self.reach, points)
        log_p = torch.cat([self.log_prob(part) for part in x.split(NODES_AT_ONCE)])
        p = log_p.exp()
        return (cell * p.sum()).item(), (-cell * torch.xlogy(p, p).sum()).item()


def midpoints(reach: float, points: int) -> tuple[Tensor, float]:
    """
    Midpoints of equal cells of the square ``[-reach, reach]^2``, in float64.

    :param reach: half the square's side
    :param points: cells along each side
    :return: shape ``(points^2, 2)``, and the area of a cell
    """
    side = 2 * reach / points
    axis = -reach + side * (torch.arange(points, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(axis, axis), side**2
