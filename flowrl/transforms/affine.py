"""Affine maps: elementwise, shears, and LU-parametrised (any rotation, scaling and shear)."""

import torch
from torch import Tensor

from flowrl.transforms.transform import Transform, zero_ladj


class Affine(Transform):
    r"""Elementwise affine map, :math:`y = \mu + e^{s} x`, with :math:`\log|\det| = \sum_i s_i`.

    :param shift: mu, shape ``(*, d)``
    :param log_scale: s, shape ``(*, d)``
    """

    def __init__(self, shift: Tensor, log_scale: Tensor):
        super().__init__()
        self.shift = shift
        self.log_scale = log_scale

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.shift + x * self.log_scale.exp(), self._ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return (y - self.shift) * (-self.log_scale).exp(), self._ladj(y)

    def _ladj(self, x: Tensor) -> Tensor:
        return self.log_scale.sum(-1).expand(x.shape[:-1])


class Shear(Transform):
    r"""Shear :math:`y = T x` with T unit triangular: volume-preserving.

    :param matrix: T with ones on its diagonal, shape ``(*, d, d)``, lower triangular (upper where ``upper``)
    :param upper: whether T is upper triangular
    """

    def __init__(self, matrix: Tensor, upper: bool = False):
        super().__init__()
        self.matrix = matrix
        self.upper = upper

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = matvec(self.matrix, x)
        return y, zero_ladj(y)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = solve(self.matrix, y, upper=self.upper)
        return x, zero_ladj(x)


class LULinear(Transform):
    r"""Linear map :math:`y = L U x` (Kingma and Dhariwal 2018, Glow, eq. 10; with a permutation before it, any
    invertible matrix), with :math:`\log|\det| = \sum_i \log U_{ii}`.

    :param lower: L, unit lower triangular, shape ``(*, d, d)``
    :param upper: U, upper triangular with positive diagonal, shape ``(*, d, d)``
    """

    def __init__(self, lower: Tensor, upper: Tensor):
        super().__init__()
        self.lower = lower
        self.upper = upper

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return matvec(self.lower, matvec(self.upper, x)), self._ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return solve(self.upper, solve(self.lower, y, upper=False), upper=True), self._ladj(y)

    def _ladj(self, x: Tensor) -> Tensor:
        return self.upper.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(x.shape[:-1])


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Batched matrix times vector, ``(*, d, d) x (*, d) -> (*, d)``."""
    if matrix.dim() == 2:  # one matrix for all vectors: one product
        return vector @ matrix.mT
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def solve(matrix: Tensor, vector: Tensor, *, upper: bool) -> Tensor:
    """Batched triangular solve, ``(*, d, d), (*, d) -> (*, d)``."""
    if matrix.dim() == 2:
        rows = vector.reshape(-1, vector.shape[-1])
        return torch.linalg.solve_triangular(matrix.mT, rows, upper=not upper, left=False).view(vector.shape)
    return torch.linalg.solve_triangular(matrix, vector.unsqueeze(-1), upper=upper).squeeze(-1)
