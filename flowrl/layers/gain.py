"""A gain: what weights are multiplied by, so that a step of Adam moves what they give by so much less."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn


class Gained(nn.Module):
    """
    A part some of whose weights mean nothing without their gain, which is therefore saved with them.

    A step of Adam moves every weight by the learning rate, so that an output moves by as much for each of its inputs;
    with a gain below one it moves by less (Yang et al. 2021, "Tensor Programs V", scale the steps of output weights by
    1 / width for this reason).
    """

    _version = 2
    """Files of version 1 do not say the gain."""
    gain, first_gain = 1.0, 1.0  # of one that an earlier version pickled
    compiled_numbers: tuple[str, ...] = ("gain",)
    weight_gain: Tensor

    def start_gain(self, gain: float) -> None:
        """
        Take the constructor's gain, to be called there.

        :param gain: the first one
        """
        self.first_gain = gain
        self.register_buffer("weight_gain", torch.tensor(0.0))
        self.take_gain(gain)

    def take_gain(self, gain: float) -> None:
        """Have another gain, of weights that are already those for it."""
        self.weight_gain.fill_(gain)
        # The same as a number, lest a pass wait for a GPU; rounded as in a file
        self.gain = gain if self.weight_gain.is_meta else self.weight_gain.item()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, metadata: Any, *args: Any) -> None:
        name = f"{prefix}weight_gain"
        if f"{prefix}gain" in state_dict:  # as the first files of version 2 say it
            state_dict[name] = state_dict.pop(f"{prefix}gain")
        if name in state_dict and not state_dict[name].is_meta:
            gain = state_dict[name].item()
            if not math.isfinite(gain) or gain == 0:  # below zero it may have come by an evolution strategy's noise
                raise ValueError(f"{name} of the saved flow is {gain}: the file is broken.")
            self.gain = gain
        elif name not in state_dict:  # not the whole of it, or no more than parameters: of weights with this gain
            if metadata.get("version") == 1 and any(key.startswith(prefix) for key in state_dict):
                self.gain = self.first_gain
            state_dict[name] = torch.full_like(self.weight_gain, self.gain)
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "weight_gain" not in self._buffers:  # an earlier version pickled it
            self.register_buffer("weight_gain", torch.full((), self.gain, dtype=next(self.parameters()).dtype))


def check_gain(gain: Any, name: str = "context_gain") -> float:
    """:raises ValueError: for what is no number above zero"""
    if not (isinstance(gain, Real) and 0 < float(gain) < math.inf):
        raise ValueError(f"{name} must be a number above zero, got {gain!r}.")
    return float(gain)
