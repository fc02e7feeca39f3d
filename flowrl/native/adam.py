"""What the C kernel of Adam's step is called with."""

import ctypes
from typing import Any

from torch import Tensor


class AdamJob(ctypes.Structure):
    """`Adam` of adam.c."""

    _fields_ = [
        ("size", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("average", ctypes.c_void_p),
        ("square", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("rate", ctypes.c_double),
        ("beta1", ctypes.c_double),
        ("beta2", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("decay", ctypes.c_double),
        ("share", ctypes.c_double),
        ("maximize", ctypes.c_int),
    ]

    def read(self, values: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]) -> None:
        """
        Take over an optimiser's settings and state.

        :param values: the parameters, end to end
        :param gradient: the loss's gradient in them
        :param group: of the optimiser's parameter groups the one
        :param state: its state
        """
        self.size, self.values, self.gradient = values.numel(), values.data_ptr(), gradient.data_ptr()
        self.average, self.square = state["exp_avg"].data_ptr(), state["exp_avg_sq"].data_ptr()
        self.count = state["step"].data_ptr()
        self.rate, (self.beta1, self.beta2), self.eps = group["lr"], group["betas"], group["eps"]
        self.decay, self.maximize = group["weight_decay"], group["maximize"]

    def follow(self, target: Tensor | None, share: float) -> None:
        """
        :param target: what moves to the parameters after the step, if something does
        :param share: of the distance
        """
        self.target, self.share = None if target is None else target.data_ptr(), share
