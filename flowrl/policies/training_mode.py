"""Training or evaluation: a mode that Stable-Baselines3 sets at every step, and that seldom changes."""

from typing import Any

from torch import nn


class TrainingModeMixin:
    """Walks through a policy's modules by itself, and has torch set their mode only where one has another."""

    def set_training_mode(self, mode: bool) -> None:
        """See SB3's `BasePolicy.set_training_mode`."""
        modules: list[Any] = [self]
        while modules:
            module: nn.Module = modules.pop()
            if module.training is not mode:
                super().set_training_mode(mode)  # type: ignore[misc]
                return
            modules += [child for child in module._modules.values() if child is not None]
