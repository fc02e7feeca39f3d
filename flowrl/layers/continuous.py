"""The continuous layer: a velocity field whose first hidden layer the context shifts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowrl.layers.layer import Layer
from flowrl.transforms import Continuous, TanhField, Transform
from flowrl.transforms.continuous import check_solver

LIPSCHITZ_LIMIT = 12.0  # of the field in x: it bounds the stretch, and with it the error of the solver


class ContinuousLayer(Layer):
    """A continuous flow (Grathwohl et al. 2019), its field's last layer zero at the start, hence the identity.

    :param features: d
    :param hidden: widths of the field's two hidden layers
    :param steps: of the Runge-Kutta method
    :param solver: ``"rk4"`` or ``"dopri5"`` (adaptive, needs torchdiffeq), with tolerances ``rtol`` and ``atol``
    :raises ValueError: for another number of hidden layers, an unknown solver, or no step
    :raises ImportError: where the solver needs torchdiffeq and it is not installed
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (64, 64),
        steps: int = 12,
        solver: str = "rk4",
        rtol: float = 1e-5,
        atol: float = 1e-5,
    ):
        super().__init__()
        if len(hidden) != 2:
            raise ValueError(f"The field of a continuous flow has two hidden layers, got hidden={tuple(hidden)}.")
        check_solver(solver, steps)
        self.steps, self.solver, self.rtol, self.atol = steps, solver, rtol, atol
        self.context_size = hidden[0]
        self.first = nn.Linear(features + 1, hidden[0], bias=False)  # of x and t; the context map has its bias
        self.second = nn.Linear(hidden[0], hidden[1])
        self.third = nn.Linear(hidden[1], features, bias=False)
        nn.init.zeros_(self.third.weight)

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """Keep the linear map's own start: the field's last layer is zero already."""

    def forward(self, parameters: Tensor) -> Transform:
        first, time = self.first.weight[:, :-1], self.first.weight[:, -1]
        second, third = self.second.weight, self.third.weight
        third = third * lipschitz_gain((first, second, third))
        field = TanhField(first, time, parameters, second, self.second.bias, third)
        return Continuous(field, self.steps, self.solver, self.rtol, self.atol)


def lipschitz_gain(weights: Sequence[Tensor]) -> Tensor:
    r"""The factor that keeps a tanh network's Lipschitz constant below `LIPSCHITZ_LIMIT`, smoothly; 1 at zero weights.

    The product of the weights' Schatten 4-norms, :math:`\|W\|_4^4 = \|W^T W\|_F^2`, bounds that of their spectral
    norms, and so the constant.

    :param weights: of all layers
    """
    bound = torch.stack([gram(weight).square().sum() for weight in weights]).prod()
    return (1 + bound / LIPSCHITZ_LIMIT**4) ** -0.25


def gram(weight: Tensor) -> Tensor:
    """W^T W or W W^T, whichever is smaller."""
    return weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
