"""The transform contract: a bijection of R^d with fused value and log-determinant passes, and its compositions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions import transforms as torch_transforms


class Transform(torch_transforms.Transform):
    r"""A bijection x -> y of vectors, a drop-in `torch.distributions` transform.

    Subclasses write the two fused passes; torch's own methods follow from them. Both passes return the *forward*
    log-determinant ``ladj`` = log|det dy/dx| at that point, so that log p_y(y) = log p_x(x) - ladj either way.
    Parameters are tensors of any batch shape that broadcasts with the input's; ``x``, ``y`` have shape
    ``(*batch, d)`` and ``ladj`` has shape ``(*batch,)``.
    """

    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.real_vector
    bijective = True

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param x: input, shape ``(*batch, d)``
        :return: y, shape ``(*batch, d)``, and log|det dy/dx|, shape ``(*batch,)``
        """
        raise NotImplementedError

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param y: output, shape ``(*batch, d)``
        :return: x, shape ``(*batch, d)``, and log|det dy/dx| (the forward's) at x, shape ``(*batch,)``
        """
        raise NotImplementedError

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]


class Inverse(Transform):
    """The same bijection run backwards: x -> y is the given transform's y -> x."""

    def __init__(self, transform: Transform):
        super().__init__()
        self.transform = transform

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, ladj = self.transform.inverse_and_ladj(x)
        return y, -ladj

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, ladj = self.transform.call_and_ladj(y)
        return x, -ladj


class Compose(Transform):
    """Transforms applied one after the other, first to last; log-determinants add up."""

    def __init__(self, transforms: Sequence[Transform]):
        super().__init__()
        self.transforms = list(transforms)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total: Any = 0.0
        for transform in self.transforms:
            x, ladj = transform.call_and_ladj(x)
            total = total + ladj
        return x, total if self.transforms else zero_ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        total: Any = 0.0
        for transform in reversed(self.transforms):
            y, ladj = transform.inverse_and_ladj(y)
            total = total + ladj
        return y, total if self.transforms else zero_ladj(y)


class TorchTransform(Transform):
    """Any bijective torch (or zuko) transform of scalars or vectors under this library's contract.

    :raises ValueError: if it is not bijective or acts on more than vectors
    """

    def __init__(self, transform: torch_transforms.Transform):
        super().__init__()
        event_dim = transform.domain.event_dim
        if not transform.bijective or event_dim > 1 or transform.codomain.event_dim != event_dim:
            raise ValueError(
                f"{type(transform).__name__} cannot be used in a flow: it must be bijective and map scalars to scalars "
                f"or vectors to vectors (bijective={transform.bijective}, event_dim={event_dim})."
            )
        self.transform = transform

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.transform(x)
        return y, self._ladj(x, y)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.transform.inv(y)
        return x, self._ladj(x, y)

    def _ladj(self, x: Tensor, y: Tensor) -> Tensor:
        ladj = self.transform.log_abs_det_jacobian(x, y)
        return ladj.sum(-1) if self.transform.domain.event_dim == 0 else ladj


def zero_ladj(x: Tensor) -> Tensor:
    """The log-determinant of a volume-preserving transform at x, shape ``x.shape[:-1]``."""
    return torch.zeros_like(x[..., 0])


def as_transform(transform: torch_transforms.Transform) -> Transform:
    """This library's transforms as they are, those of torch under its contract."""
    return transform if isinstance(transform, Transform) else TorchTransform(transform)


def as_rows(*parts: Tensor) -> tuple[torch.Size, list[Tensor]]:
    """
    Vectors of different batch shapes side by side as rows.

    :param parts: shapes ``(*batch_i, d_i)``, the batch shapes broadcastable
    :return: their common batch shape, n vectors in all, and each part in shape ``(n, d_i)``
    """
    batch = parts[0].shape[:-1]
    if all(part.shape[:-1] == batch for part in parts):  # most often, and what ONNX keeps the batch's size of
        return batch, [part.reshape(-1, part.shape[-1]) for part in parts]
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return batch, [part.expand(*batch, -1).reshape(-1, part.shape[-1]) for part in parts]
