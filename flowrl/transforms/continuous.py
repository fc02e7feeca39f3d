"""Continuous flows (Chen et al. 2018; Grathwohl et al. 2019, FFJORD): the solution of a differential equation."""

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flowrl.options import whole
from flowrl.transforms.transform import Transform

SOLVERS = ("rk4", "dopri5")
Dynamics = Callable[[Any, Tensor], tuple[Tensor, Tensor]]  # t, x -> two rates


class TanhField:
    r"""Velocity field with two hidden layers, :math:`v(t, x) = W_3 s_2`, :math:`s_2 = \tanh(W_2 s_1 + b)`,
    :math:`s_1 = \tanh(W_1 x + t u + c)`.

    Its divergence has a closed form, :math:`{s_2'}^T [W_2 \odot (W_1 W_3)^T]\, s_1'` with :math:`s' = 1 - s^2`: one
    more matrix product, and no trace estimate. The velocity is bounded, hence the flow finite wherever it starts.

    :param first: W_1, shape ``(m, d)``
    :param time: u, shape ``(m,)``
    :param shift: c, shape ``(*, m)``
    :param second: W_2, shape ``(n, m)``
    :param bias: b, shape ``(n,)``
    :param third: W_3, shape ``(d, n)``
    """

    def __init__(self, first: Tensor, time: Tensor, shift: Tensor, second: Tensor, bias: Tensor, third: Tensor):
        self.first, self.time, self.shift = first, time, shift
        self.second, self.bias, self.third = second, bias, third
        self.trace = second * (first @ third).T  # (n, m)

    def __call__(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param t: time, a number
        :param x: shape ``(*, d)``
        :return: velocity, shape ``(*, d)``, and its exact divergence, shape ``(*,)``
        """
        s1, s2 = self._hidden(t, x)
        divergence = (F.linear(1 - s1.square(), self.trace) * (1 - s2.square())).sum(-1)
        return F.linear(s2, self.third), divergence

    def _hidden(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        s1 = torch.tanh(F.linear(x, self.first) + (self.shift + t * self.time))
        return s1, torch.tanh(F.linear(s1, self.second, self.bias))


class Continuous(Transform):
    r"""The flow of :math:`\dot x = v(t, x)` from t = 0 to 1, with :math:`\log|\det| = \int_0^1 \mathrm{div}\, v\, dt`
    along it (Chen et al. 2018, eq. 8).

    Solved by the classical Runge-Kutta method in a fixed number of steps of length h, and differentiated through the
    solver: round trip and log-determinant are exact up to O(h^4). Or by torchdiffeq's adaptive solver, exact up to its
    tolerances, whose graph depends on the data (it does not compile).

    :param field: v and its divergence
    :param steps: of the Runge-Kutta method
    :param solver: ``"rk4"`` or ``"dopri5"`` (adaptive, needs torchdiffeq)
    :param rtol: relative tolerance of the adaptive solver
    :param atol: its absolute tolerance
    """

    def __init__(self, field: TanhField, steps: int = 12, solver: str = "rk4", rtol: float = 1e-5, atol: float = 1e-5):
        super().__init__()
        self.field, self.steps, self.solver, self.rtol, self.atol = field, steps, solver, rtol, atol

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._solve(x, 0.0, 1.0)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, ladj = self._solve(y, 1.0, 0.0)
        return x, -ladj

    def _solve(self, x: Tensor, start: float, stop: float) -> tuple[Tensor, Tensor]:
        if self.solver == "rk4":
            return runge_kutta(self.field, x, start, stop, self.steps)
        velocity, rate = self.field(start, x)
        times = torch.tensor([start, stop], dtype=x.dtype, device=x.device)
        state = (x.expand_as(velocity), torch.zeros_like(rate))
        values, integrals = adaptive_solver()(
            lambda t, state: self.field(t, state[0]), state, times, rtol=self.rtol, atol=self.atol, method=self.solver
        )
        return values[-1], integrals[-1]


def runge_kutta(dynamics: Dynamics, x: Tensor, start: float, stop: float, steps: int) -> tuple[Tensor, Tensor]:
    """The classical fourth-order method: x at ``stop``, and the integral of the second rate along the way."""
    h = (stop - start) / steps
    integral: Any = 0.0
    for i in range(steps):
        t = start + i * h
        v1, r1 = dynamics(t, x)
        v2, r2 = dynamics(t + h / 2, x + h / 2 * v1)
        v3, r3 = dynamics(t + h / 2, x + h / 2 * v2)
        v4, r4 = dynamics(t + h, x + h * v3)
        x = x + h / 6 * (v1 + 2 * (v2 + v3) + v4)
        integral = integral + h / 6 * (r1 + 2 * (r2 + r3) + r4)
    return x, integral


def adaptive_solver() -> Any:
    """torchdiffeq's `odeint`, which is imported only where it is asked for.

    :raises ImportError: where torchdiffeq is not installed
    """
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise ImportError("solver='dopri5' needs torchdiffeq: pip install torchdiffeq (or use solver='rk4').") from None
    return odeint


def check_solver(solver: str, steps: int) -> None:
    """
    :raises ValueError: for an unknown solver or no step
    :raises ImportError: for one that is not installed
    """
    if solver not in SOLVERS:
        near = difflib.get_close_matches(str(solver), SOLVERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown solver {solver!r}.{hint} Available: {', '.join(SOLVERS)}.")
    whole("steps", steps, 1)
    if solver != "rk4":
        adaptive_solver()
