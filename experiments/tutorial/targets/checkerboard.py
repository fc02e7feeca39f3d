"""The checkerboard: uniform on every second square of side 2 in [-4, 4]^2."""

import math

import torch
from torch import Tensor

from experiments.tutorial.targets.target import Target

SQUARE = 2  # side of a square
SQUARES = 4  # along each side of the board
AREA = SQUARE**2 * SQUARES**2 / 2


class Checkerboard(Target):
    """Log-density -log 32 on the eight dark squares, those whose column and row add up to an even number."""

    def __init__(self) -> None:
        super().__init__(reach=SQUARE * SQUARES / 2)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        row = torch.randint(SQUARES, (n,), generator=generator)
        column = 2 * torch.randint(SQUARES // 2, (n,), generator=generator) + row % 2
        corner = SQUARE * torch.stack((column, row), -1) - self.reach
        return corner + SQUARE * torch.rand(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        dark = (x / SQUARE).floor().sum(-1) % 2 == 0
        on_board = (x.abs() <= self.reach).all(-1)
        return torch.where(dark & on_board, x.new_tensor(-math.log(AREA)), -math.inf)
