"""The transform contract: a bijection of R^d with fused value and log-determinant passes, and its compositions.

Forward is noise to value, which samples; inverse is value to noise, which scores. Where the two cost differently:

==================================  ==============  ===================================================================
what                                one pass        who uses it
==================================  ==============  ===================================================================
`Autoregressive`                    noise to value  ``fast_sampling=True``: `iaf`; `nsf-ar` and `naf` turned round
``Inverse(Autoregressive(...))``    value to noise  ``fast_sampling=False``: `maf`; `nsf-ar` and `naf` by default
`Sigmoidal`                         noise to value  `naf`; the other way is a root find
``Elementwise(..., inverse=True)``  value to noise  `naf` of one feature by default: the `Inverse` of `Sigmoidal`
`Planar`                            noise to value  `planar`; the other way is a root find
==================================  ==============  ===================================================================

Names differ elsewhere: ``forward`` of nflows' transforms and the ``transform`` of zuko's flows are value to noise, and
the adapters turn them round; normflows goes as this library does.
"""

import copy
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
    ``(*batch, d)`` and ``ladj`` has shape ``(*batch,)``. Torch's `TransformedDistribution` takes the batch shape of the
    parameters from `forward_shape`, which `Affine` and what is made of it have; for others, expand the base to it.
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

    def with_cache(self, cache_size: int = 1) -> "Transform":
        """
        The same bijection with the same parameters, which remembers the last pair of x and y that torch's methods made.

        :param cache_size: 1, or 0: nothing is remembered
        :raises ValueError: for another size
        """
        if cache_size == self._cache_size:
            return self
        cached = copy.copy(self)
        torch_transforms.Transform.__init__(cached, cache_size)
        return cached


class Inverse(Transform):
    """The same bijection run backwards: x -> y is the given transform's y -> x."""

    def __init__(self, transform: Transform):
        super().__init__()
        self.transform = transform

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        return self.transform.codomain

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return self.transform.domain

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.inverse_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.forward_shape(shape)

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

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        return self.transforms[0].domain if self.transforms else constraints.real_vector

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return self.transforms[-1].codomain if self.transforms else constraints.real_vector

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        for transform in self.transforms:
            shape = transform.forward_shape(shape)
        return shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        for transform in reversed(self.transforms):
            shape = transform.inverse_shape(shape)
        return shape

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

    Where its codomain is not all of R^d, vectors outside of it have a log-determinant of infinity, and hence a density
    of zero.

    :raises ValueError: if it is not bijective, acts on more than vectors or changes their size
    """

    def __init__(self, transform: torch_transforms.Transform):
        super().__init__()
        event_dim = transform.domain.event_dim
        if not transform.bijective or event_dim > 1 or transform.codomain.event_dim != event_dim:
            raise ValueError(
                f"{type(transform).__name__} cannot be used in a flow: it must be bijective and map scalars to scalars "
                f"or vectors to vectors (bijective={transform.bijective}, event_dim={event_dim})."
            )
        if changes_size(transform):
            raise ValueError(
                f"{type(transform).__name__} cannot be used in a flow: its vectors x and y differ in size, and a flow "
                "has as many features everywhere."
            )
        self.transform = transform

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        return _of_vectors(self.transform.domain)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return _of_vectors(self.transform.codomain)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.inverse_shape(shape)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.transform(x)
        return y, self._ladj(x, y)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if _is_everything(self.codomain):
            x = self.transform.inv(y)
            return x, self._ladj(x, y)
        outside = ~self.codomain.check(y) & ~y.isnan().any(-1)
        with torch.no_grad():
            somewhere = self.transform(torch.full_like(y, 0.5))  # in the domain of all of torch's
            x = self.transform.inv(torch.where(outside.unsqueeze(-1), somewhere, y))
            outside = outside | x.isinf().any(-1)  # the ends of an open interval, which torch's check lets in
        inside = torch.where(outside.unsqueeze(-1), somewhere, y)  # for gradients that are numbers
        x = self.transform.inv(inside)
        return x, self._ladj(x, inside).masked_fill(outside, torch.inf)

    def _ladj(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape:  # torch gives a log-determinant of the shape of x, whatever the parameters'
            x, y = torch.broadcast_tensors(x, y)
        ladj = self.transform.log_abs_det_jacobian(x, y)
        return ladj.sum(-1) if self.transform.domain.event_dim == 0 else ladj


def zero_ladj(x: Tensor) -> Tensor:
    """The log-determinant of a volume-preserving transform at x, shape ``x.shape[:-1]``."""
    return torch.zeros_like(x[..., 0])


def as_transform(transform: torch_transforms.Transform) -> Transform:
    """This library's transforms as they are, those of torch under its contract."""
    return transform if isinstance(transform, Transform) else TorchTransform(transform)


def changes_size(transform: torch_transforms.Transform) -> bool:
    """Whether a torch transform gives vectors of another size, as from a point of R^d to d + 1 shares of one."""
    try:
        shape = transform.forward_shape(torch.Size([1]))  # at least: parameters may broadcast it, either way
        return transform.inverse_shape(shape) != shape
    except ValueError:  # a reshape, which takes one size alone
        return False


def concatenate(first: Tensor, second: Tensor) -> Tensor:
    """Features side by side, ``(*, m), (*, n) -> (*, m + n)``, the batch shapes broadcastable."""
    if first.shape[:-1] != second.shape[:-1]:
        batch = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
        first, second = first.expand(*batch, -1), second.expand(*batch, -1)
    return torch.cat((first, second), dim=-1)


def _is_everything(constraint: constraints.Constraint) -> bool:
    """Whether it says nothing; one that depends on what nobody knows counts as that."""
    constraint = getattr(constraint, "base_constraint", constraint)
    return constraint is constraints.real or constraints.is_dependent(constraint)


def _of_vectors(constraint: constraints.Constraint) -> constraints.Constraint:
    """A constraint of scalars as that of all elements of a vector; one of vectors as it is."""
    return constraint if constraint.event_dim else constraints.independent(constraint, 1)


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
