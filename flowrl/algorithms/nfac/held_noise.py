"""Exploration by noise that is held for a few steps: it is what the flow bends, so that actions still follow states."""

import torch
from torch import Tensor

LONGEST = 16


class HeldNoise:
    r"""
    Standard normal noise, drawn anew after lengths of probability :math:`\propto k^{-e}`, k = 1, ..., 16 (the zeta
    distribution of Dabney et al. 2021, "Temporally-Extended epsilon-Greedy Exploration", cut off).

    :param exponent: e; the larger, the shorter: at 2 a draw is held for 2.1 steps on average
    :param d: dimensions
    """

    def __init__(self, exponent: float, d: int):
        self.weights = torch.arange(1, LONGEST + 1, dtype=torch.float64) ** -exponent
        self.d = d
        self._left = torch.zeros(0, dtype=torch.int64)
        self._noise = torch.zeros(0, d)

    def step(self, n: int) -> Tensor:
        """
        :param n: environments
        :return: of each, shape ``(n, d)``
        """
        if len(self._left) != n:
            self._left, self._noise = torch.zeros(n, dtype=torch.int64), torch.zeros(n, self.d)
        over = self._left == 0
        if over.any():
            count = int(over.sum())
            self._noise[over] = torch.randn(count, self.d)
            self._left[over] = 1 + torch.multinomial(self.weights, count, replacement=True)
        self._left -= 1
        return self._noise.clone()
