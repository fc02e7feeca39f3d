"""Perceptrons, and what makes them learn fast, each an option: norms, residual blocks, an input shift, unit lengths."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowrl.networks.batch_renorm import BatchRenorm
from flowrl.options import whole

NORMS: dict[str, type[nn.Module]] = dict(none=nn.Identity, layer=nn.LayerNorm, rms=nn.RMSNorm, batch=BatchRenorm)


@dataclass(frozen=True)
class Architecture:
    """
    What a network is made of.

    :param widths: of the hidden layers; none: one linear layer, as SB3's ``net_arch=[]``
    :param norm: before each activation: ``"none"``, ``"layer"`` (Ba et al. 2016), ``"rms"`` (Zhang and Sennrich 2019)
        or ``"batch"``: batch renormalisation (Ioffe 2017), as CrossQ has it
    :param residual: whether a linear map to the width begins a stream, each of the widths is a block
        x + W_2 f(W_1 norm(x)), and a norm ends it (Lee et al. 2024, SimBa, section 4)
    :param expansion: how many times as wide a block's inner layer is
    :param input_shift: a constant c, not zero, beside the input x, whose length is then normalised:
        (x, c) sqrt(n + 1) / |(x, c)| (Lee et al. 2025, SimbaV2, eq. 8 and 9); None: the input as it is
    :param unit_norm: whether each row of a matrix that a norm follows keeps the length 1, see :func:`project`
    :raises ValueError: for an unknown norm, unit lengths without norms, residual blocks of several widths, blocks or a
        shift without hidden layers, and numbers out of their range
    """

    widths: tuple[int, ...] = (256, 256)
    norm: str = "none"
    residual: bool = False
    expansion: int = 2
    input_shift: float | None = None
    unit_norm: bool = False

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"Unknown norm {self.norm!r}: the norms are {', '.join(NORMS)}.")
        if self.unit_norm and (self.norm == "none" or self.residual):
            raise ValueError("unit_norm is for matrices that a norm follows: take a norm, and no residual blocks.")
        for width in self.widths:
            whole("the width of a hidden layer", width, 1)
        whole("expansion", self.expansion, 1)
        if self.input_shift is not None and not 0 < abs(self.input_shift) < math.inf:
            raise ValueError(
                "input_shift is a finite number other than zero, without which an input of zeros has no length, "
                f"got {self.input_shift!r}."
            )
        if not self.widths and (self.residual or self.input_shift is not None):
            raise ValueError("residual and input_shift are for networks with hidden layers, got widths=().")
        if self.residual and len(set(self.widths)) > 1:
            raise ValueError(f"Residual blocks need layers of one width, got {self.widths}.")


class InputShift(nn.Module):
    """(x, c) sqrt(n + 1) / |(x, c)|: an input's length is kept, in its direction."""

    def __init__(self, shift: float):
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, n) -> (batch, n + 1)``"""
        x = F.pad(x, (0, 1), value=self.shift)
        return x * (math.sqrt(x.shape[-1]) / x.norm(dim=-1, keepdim=True))


class ResidualBlock(nn.Module):
    """x + W_2 f(W_1 norm(x)), f the activation function."""

    def __init__(self, width: int, architecture: Architecture, activation_fn: type[nn.Module]):
        super().__init__()
        inner = architecture.expansion * width
        self.norm = NORMS[architecture.norm](width)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = activation_fn()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(self.activation(self.expand(self.norm(x))))


def perceptron(
    inputs: int, outputs: int, architecture: Architecture, activation_fn: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """
    :param inputs: features
    :param outputs: of the last, linear layer; 0: the last hidden layer's activations
    :param architecture: of what lies between
    :param activation_fn: of the hidden layers
    :return: the network, ``(batch, inputs) -> (batch, outputs)``
    """
    widths = architecture.widths
    layers: list[nn.Module] = []
    if architecture.input_shift is not None:
        layers, inputs = [InputShift(architecture.input_shift)], inputs + 1
    if architecture.residual:
        layers += [
            nn.Linear(inputs, widths[0]),
            *(ResidualBlock(width, architecture, activation_fn) for width in widths),
        ]
        layers += [NORMS[architecture.norm](widths[0])]
    else:
        for before, width in zip((inputs, *widths), widths):
            norm = [] if architecture.norm == "none" else [NORMS[architecture.norm](width)]
            layers += [nn.Linear(before, width), *norm, activation_fn()]
    if outputs:
        layers.append(nn.Linear((inputs, *widths)[-1], outputs))
    network = nn.Sequential(*layers)
    if architecture.unit_norm:
        project([network])
    return network


@torch.no_grad()
def project(networks: Iterable[nn.Module]) -> None:
    """
    Give the rows of each matrix that a norm follows the length 1, as after every step of an optimiser.

    The norm undoes what a length would have meant for the output, but a row that grows learns ever more slowly
    (Salimans and Kingma 2016; Loshchilov et al. 2024).

    :param networks: of :func:`perceptron`, with ``unit_norm``
    """
    for network in networks:
        layers = list(network.children())
        for linear, following in pairwise(layers):
            if isinstance(linear, nn.Linear) and isinstance(following, tuple(NORMS.values())):
                linear.weight /= linear.weight.norm(dim=1, keepdim=True).clamp(min=1e-8)
