"""The kind of network that the C kernels know and Stable-Baselines3 builds: linear layers, ReLU or tanh between."""

from typing import Any, NamedTuple

from torch import nn


class PlainNetwork(NamedTuple):
    """What a `torch.nn.Sequential` of linear layers with one activation function between them is made of."""

    layers: list[nn.Linear]
    activation: type[nn.Module]
    active_end: bool  # whether the activation follows the last layer too

    @classmethod
    def read(cls, network: nn.Module) -> "PlainNetwork | None":
        """The parts of a network; None if it is anything else."""
        modules: list[Any] = list(network) if isinstance(network, nn.Sequential) else []
        layers, activations = modules[::2], modules[1::2]
        kinds = {type(module) for module in activations}
        if not activations or any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
            return None
        if len(kinds) != 1 or not kinds <= {nn.ReLU, nn.Tanh}:
            return None
        return cls(layers, kinds.pop(), len(layers) == len(activations))
