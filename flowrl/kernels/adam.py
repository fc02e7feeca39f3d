"""What the C kernel of Adam's step is called with."""

import ctypes
from typing import Any

from torch import Tensor

from flowrl.kernels.library import fields


class AdamJob(ctypes.Structure):
    """`Adam` of adam.c."""

    _fields_ = fields(
        "nppppppddddddi",
        "size values average square gradient count target rate beta1 beta2 eps decay share maximize",
    )

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
