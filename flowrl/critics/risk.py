r"""Measures of risk: what an actor makes of a return's distribution, as a mean with distorted probabilities.

.. math:: \rho(Z) = \int_0^1 Z(\tau)\, dg(\tau)

with g increasing from 0 to 1 (Wang 1996, "Premium Calculation by Transforming the Layer Premium Density"; Dabney et al.
2018, IQN, section 3): the mean has g(tau) = tau.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from flowrl.critics.heads import Atoms

Distortion = Callable[[Tensor], Tensor]


def neutral(tau: Tensor) -> Tensor:
    """The mean."""
    return tau


@cache  # one object a level: an update that was made for one measure sees by it that the model has another
def cvar(level: float) -> Distortion:
    """
    The mean of the worst returns: g(tau) = min(tau / level, 1).

    :param level: how large a part of them, in (0, 1]
    :raises ValueError: for another
    """
    if not 0 < level <= 1:
        raise ValueError(f"The level of cvar is in (0, 1], got {level}.")
    return lambda tau: (tau / level).clamp(max=1)


@cache
def wang(aversion: float) -> Distortion:
    """
    Wang's: g(tau) = Phi(Phi^-1(tau) + aversion).

    :param aversion: positive: bad returns count for more; negative: good ones do
    :raises ValueError: where it is not finite
    """
    if not math.isfinite(aversion):
        raise ValueError(f"The aversion of wang is a finite number, got {aversion}.")

    def distort(tau: Tensor) -> Tensor:
        # At the ends Phi^-1 is infinite, and so is its slope, while g is 0 and 1 whatever is added.
        inside = (tau > torch.finfo(tau.dtype).tiny) & (tau < 1)
        distorted = torch.special.ndtr(torch.special.ndtri(torch.where(inside, tau, 0.5)) + aversion)
        return torch.where(inside, distorted, tau.detach().clamp(0, 1))

    return distort


MEASURES: dict[str, Callable[[float], Distortion]] = dict(cvar=cvar, wang=wang)


def find_distortion(risk: str) -> Distortion:
    """
    :param risk: ``"neutral"``, ``"cvar:LEVEL"`` or ``"wang:AVERSION"``
    :return: g
    :raises ValueError: for anything else
    """
    name, _, number = str(risk).partition(":")
    try:
        if name == "neutral" and not number:
            return neutral
        return MEASURES[name](float(number))
    except (KeyError, ValueError) as error:
        detail = f" {error}" if isinstance(error, ValueError) and name in MEASURES else ""
        raise ValueError(
            f'risk is "neutral", "cvar:LEVEL" (0.25: the worst quarter) or "wang:AVERSION", got {risk!r}.{detail}'
        ) from None


def measure(atoms: Atoms, distortion: Distortion) -> Tensor:
    """
    :param atoms: of a return, sorted, shape ``(*batch, n)``
    :param distortion: g
    :return: the distorted mean, shape ``(*batch,)``
    """
    if distortion is neutral:
        return atoms.mean()
    total = atoms.weights.expand_as(atoms.values).cumsum(-1)
    total = total / total[..., -1:]  # rounding must not leave some of g behind
    edges = distortion(torch.nn.functional.pad(total, (1, 0)))
    return (atoms.values * edges.diff(dim=-1)).sum(-1)
