"""What a critic says of a return: numbers of a network read as a distribution, and how these numbers learn.

Every head gives its distribution as weighted atoms, sorted: their weighted mean is Q, their distorted mean a measure of
risk (`flowrl.critics.risk`), and moved by r + gamma (...) they are the target's distribution.
"""

from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.critics.return_distribution import ReturnFlow, midpoints
from flowrl.options import between, not_negative, whole


class Atoms(NamedTuple):
    """
    A distribution of returns.

    :param values: in increasing order, shape ``(*batch, n)``
    :param weights: that sum to one, shape ``(*batch, n)`` or ``(n,)``
    """

    values: Tensor
    weights: Tensor

    def mean(self) -> Tensor:
        """Shape ``(*batch,)``."""
        return (self.values * self.weights).sum(-1)


class Head:
    """
    A way to read a network's output.

    :param bound: B, returns lie in [-B, B]; where the head is bounded, targets beyond are clipped
    :raises ValueError: for an option that is out of its range
    """

    size: int
    """How many numbers it reads."""
    is_bounded = True
    droppable = 0
    """How many of its atoms a target can go without: all but one where they weigh the same."""

    def __init__(self, bound: float):
        self.bound = between("bound", bound, 0)

    def atoms(self, raw: Tensor) -> Atoms:
        """
        :param raw: shape ``(*batch, size)``
        :return: with a gradient in ``raw``
        """
        raise NotImplementedError

    def smooth(self, target: Atoms) -> Atoms:
        """
        :param target: shape ``(*batch, n)``
        :return: as the loss takes it
        """
        return target

    def loss(self, raw: Tensor, target: Atoms) -> Tensor:
        """
        :param raw: shape ``(*batch, size)``
        :param target: smoothed, of the same batch, without a gradient, inside of [-B, B] where the head is bounded
        :return: shape ``(*batch,)``
        """
        raise NotImplementedError


class FlowHead(Head):
    """
    A flow of the return, see :class:`flowrl.critics.return_distribution.ReturnFlow`.

    :param bound: B
    :param n_bins: K of the spline
    :param grid: ``"free"``: lengths, probabilities and slopes of the spline's bins are learned; ``"fixed"``: the bins
        of the return are equally long
    :param n_atoms: at the midpoints of as many equal slices of tau
    :param objective: ``"likelihood"``: the mean of -log p over the target's atoms, each moved by noise, so that a
        return without spread has a density too; ``"quantile"``: see :func:`quantile_huber_loss`
    :param noise: standard deviation of that noise, in scaled returns
    """

    def __init__(
        self,
        bound: float = 5.0,
        n_bins: int = 24,
        n_atoms: int = 32,
        grid: str = "free",
        objective: str = "likelihood",
        noise: float = 0.075,
    ):
        super().__init__(bound)
        if objective not in ("likelihood", "quantile"):
            raise ValueError(f'objective is "likelihood" or "quantile", got {objective!r}.')
        if grid not in ("fixed", "free"):
            raise ValueError(f'grid is "fixed" or "free", got {grid!r}.')
        self.n_bins, self.n_atoms = whole("n_bins", n_bins, 1), whole("n_atoms", n_atoms, 1)
        self.objective, self.noise = objective, not_negative("noise", noise)
        self.droppable = self.n_atoms - 1
        self.is_fixed = grid == "fixed"
        self.size = (2 if self.is_fixed else 3) * n_bins - 1

    def distribution(self, raw: Tensor) -> ReturnFlow:
        """Of the return, ``(*batch, size) -> batch shape (*batch,)``."""
        if self.is_fixed:  # a spline's heights are its bins of the return
            widths, slopes = raw.split((self.n_bins, self.n_bins - 1), -1)
            raw = torch.cat((widths, torch.zeros_like(widths), slopes), -1)
        return ReturnFlow(raw, self.bound)

    def atoms(self, raw: Tensor) -> Atoms:
        tau = midpoints(self.n_atoms, raw)
        return Atoms(self.distribution(raw).quantile(tau), raw.new_full((self.n_atoms,), 1 / self.n_atoms))

    def loss(self, raw: Tensor, target: Atoms) -> Tensor:
        if self.objective == "quantile":
            atoms = self.atoms(raw)
            return quantile_huber_loss(atoms.values, midpoints(self.n_atoms, raw), target)
        return -(self.distribution(raw).log_prob(target.values) * target.weights).sum(-1)

    def smooth(self, target: Atoms) -> Atoms:
        if self.objective == "quantile":
            return target
        noised = target.values + self.noise * torch.randn_like(target.values)
        return Atoms(reflect(noised, self.bound), target.weights)


class CategoricalHead(Head):
    """
    Probabilities of fixed returns, learned by cross-entropy with the projected target (Bellemare et al. 2017, C51).

    :param bound: B
    :param n_bins: fixed returns from -B to B
    """

    def __init__(self, bound: float = 5.0, n_bins: int = 101):
        super().__init__(bound)
        self.size = whole("n_bins", n_bins, 2)

    def atoms(self, raw: Tensor) -> Atoms:
        support = torch.linspace(-self.bound, self.bound, self.size, dtype=raw.dtype, device=raw.device)
        return Atoms(support.expand_as(raw), raw.softmax(-1))

    def loss(self, raw: Tensor, target: Atoms) -> Tensor:
        return -(self.project(target).to(raw) * raw.log_softmax(-1)).sum(-1)

    def project(self, target: Atoms) -> Tensor:
        """Each atom's weight, divided among the two fixed returns beside it by nearness (eq. 7)."""
        place = (target.values + self.bound) * ((self.size - 1) / (2 * self.bound))  # from 0 to size - 1
        low = place.floor().clamp(0, self.size - 2).nan_to_num()  # what is not a number has no index
        upper, weights = place - low, target.weights.expand_as(place)
        projected = place.new_zeros(*place.shape[:-1], self.size)
        projected.scatter_add_(-1, low.long(), weights * (1 - upper))
        return projected.scatter_add_(-1, low.long() + 1, weights * upper)


class QuantileHead(Head):
    """
    Quantiles of the return, each a number of its own (Dabney et al. 2018, "Distributional Reinforcement Learning with
    Quantile Regression"), as TQC has them.

    :param bound: they may lie anywhere; NFAC's scale of rewards goes by it
    :param n_atoms: how many
    """

    is_bounded = False

    def __init__(self, bound: float = 5.0, n_atoms: int = 25):
        super().__init__(bound)
        self.size = whole("n_atoms", n_atoms, 1)
        self.droppable = self.size - 1

    def atoms(self, raw: Tensor) -> Atoms:
        return Atoms(raw.sort(-1).values, raw.new_full((self.size,), 1 / self.size))

    def loss(self, raw: Tensor, target: Atoms) -> Tensor:
        return quantile_huber_loss(raw, midpoints(self.size, raw), target)


class ScalarHead(Head):
    """
    The mean return alone, by its squared error: SAC's critic.

    :param bound: the mean may lie anywhere; NFAC's scale of rewards goes by it
    """

    size = 1
    is_bounded = False

    def __init__(self, bound: float = 5.0):
        super().__init__(bound)

    def atoms(self, raw: Tensor) -> Atoms:
        return Atoms(raw, raw.new_ones(1))

    def loss(self, raw: Tensor, target: Atoms) -> Tensor:
        return 0.5 * (raw.squeeze(-1) - target.mean()).square()


HEADS: dict[str, type[Head]] = dict(
    flow=FlowHead, categorical=CategoricalHead, quantile=QuantileHead, scalar=ScalarHead
)


def make_head(name: str, **options: Any) -> Head:
    """
    :param name: ``"flow"``, ``"categorical"``, ``"quantile"`` or ``"scalar"``
    :param options: of the head
    :return: the head
    :raises ValueError: for another name, or options that the head does not take or that are out of their range
    """
    if name not in HEADS:
        near = get_close_matches(str(name), HEADS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"Unknown critic {name!r}: {hint}The critics are {', '.join(HEADS)}.")
    try:
        return HEADS[name](**options)
    except TypeError as error:
        raise ValueError(f"Critic {name!r} could not be built with options {options}: {error}") from error


def reflect(values: Tensor, bound: float) -> Tensor:
    """
    Values above B, mirrored there, and then those below -B, mirrored there: what lay above 3 B is mirrored twice. What
    is still outside ends on the edge beside it.
    """
    values = torch.where(values > bound, 2 * bound - values, values)
    return torch.where(values < -bound, -2 * bound - values, values).clamp(-bound, bound)


def quantile_huber_loss(quantiles: Tensor, tau: Tensor, target: Atoms, kappa: float = 0.1) -> Tensor:
    r"""
    :math:`\frac{1}{n} \sum_i E_y |\tau_i - 1[y < q_i]| L_\kappa(y - q_i) / \kappa` (Dabney et al. 2018, eq. 10;
    divided by kappa as in their "Implicit Quantile Networks").

    :param quantiles: q, shape ``(*batch, n)``
    :param tau: of each, shape ``(n,)``
    :param target: y
    :param kappa: within which the error counts by its square
    :return: shape ``(*batch,)``
    """
    error = target.values.unsqueeze(-2) - quantiles.unsqueeze(-1)  # (*batch, n, atoms)
    huber = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=kappa) / kappa
    weight = (tau.unsqueeze(-1) - (error.detach() < 0).to(error)).abs()
    return (weight * huber * target.weights.unsqueeze(-2)).sum(-1).mean(-1)
