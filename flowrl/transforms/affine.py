"""Affine maps: elementwise, shears, and LU-parametrised (any rotation, scaling and shear)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.transforms.transform import Transform, zero_ladj


class Affine(Transform):
    r"""Elementwise affine map, :math:`y = \mu + e^{s} x`, with :math:`\log|\det| = \sum_i s_i`.

    :param shift: mu, shape ``(*, d)``; or one of all features, a number or of shape ``(*, 1)``
    :param log_scale: s, the same
    """

    def __init__(self, shift: Tensor, log_scale: Tensor):
        super().__init__()
        self.shift = shift
        self.log_scale = log_scale

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.shift + x * self.log_scale.exp()
        return y, self._ladj(y)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = (y - self.shift) * (-self.log_scale).exp()
        return x, self._ladj(x)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.broadcast_shapes(shape, self.shift.shape, self.log_scale.shape)

    inverse_shape = forward_shape

    def _ladj(self, image: Tensor) -> Tensor:
        log_scale = self.log_scale
        if log_scale.shape[-1:] != image.shape[-1:]:  # one scale of all features, which counts for each
            log_scale = log_scale.expand(*log_scale.shape[:-1], image.shape[-1])
        return log_scale.sum(-1).expand(image.shape[:-1])


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


class LowRankShear(Transform):
    r"""Shear :math:`y_i = x_i + u_i \cdot \sum_{j < i} v_j x_j`, j > i where ``upper``: :math:`T = I + N` with
    :math:`N_{ij} = u_i \cdot v_j` on one side of the diagonal, volume-preserving.

    Forward it is a sum that runs along the features, d r operations; the inverse solves with the matrix.

    :param u: shape ``(*, d, r)``
    :param v: shape ``(*, d, r)``
    :param upper: whether T is upper triangular
    """

    def __init__(self, u: Tensor, v: Tensor, upper: bool = False):
        super().__init__()
        self.u, self.v, self.upper = u, v, upper

    @property
    def matrix(self) -> Tensor:
        """T, shape ``(*, d, d)``."""
        product = self.u @ self.v.transpose(-1, -2)
        one = torch.eye(product.shape[-1], dtype=product.dtype, device=product.device)
        return one + (product.triu(1) if self.upper else product.tril(-1))

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        terms = self.v * x.unsqueeze(-1)  # (*, d, r)
        if self.upper:
            sums = F.pad(terms[..., 1:, :].flip(-2).cumsum(-2).flip(-2), (0, 0, 0, 1))
        else:
            sums = F.pad(terms[..., :-1, :].cumsum(-2), (0, 0, 1, 0))
        y = x + (self.u * sums).sum(-1)
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
        y = matvec(self.lower, matvec(self.upper, x))
        return y, self._ladj(y)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = solve(self.upper, solve(self.lower, y, upper=False), upper=True)
        return x, self._ladj(x)

    def _ladj(self, image: Tensor) -> Tensor:
        return self.upper.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(image.shape[:-1])


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Batched matrix times vector, ``(*, d, d) x (*, d) -> (*, d)``."""
    if matrix.dim() == 2:  # one matrix for all vectors: one product
        return vector @ matrix.transpose(-1, -2)  # as `mT`, which ONNX does not know
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def solve(matrix: Tensor, vector: Tensor, *, upper: bool) -> Tensor:
    """Batched triangular solve, ``(*, d, d), (*, d) -> (*, d)``."""
    if torch.onnx.is_in_onnx_export():  # ONNX has no such solve
        return substitute(matrix, vector, upper=upper)
    if matrix.dim() == 2:
        rows = vector.reshape(-1, vector.shape[-1])
        return torch.linalg.solve_triangular(matrix.mT, rows, upper=not upper, left=False).view(vector.shape)
    return torch.linalg.solve_triangular(matrix, vector.unsqueeze(-1), upper=upper).squeeze(-1)


def substitute(matrix: Tensor, vector: Tensor, *, upper: bool) -> Tensor:
    """The same solve, a feature after the other: d products in place of one call."""
    d = vector.shape[-1]
    x: list[Tensor] = []  # the features in the order in which they are solved
    for i in reversed(range(d)) if upper else range(d):
        rest = vector[..., i]
        if x:
            row = matrix[..., i, i + 1 :] if upper else matrix[..., i, :i]
            rest = rest - (row * torch.stack(x[::-1] if upper else x, dim=-1)).sum(-1)
        x.append(rest / matrix[..., i, i])
    return torch.stack(x[::-1] if upper else x, dim=-1)
