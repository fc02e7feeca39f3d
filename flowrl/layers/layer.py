"""The layer contract: the parameters of one transform, taken from a slice of the flow's single context map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowrl.transforms import Transform
from flowrl.transforms.holder import Holder


class Layer(nn.Module):
    """Holds what one transform needs and builds it from its slice of the context map.

    ``context_size`` is the number of columns of the context map that the layer takes. The transform is made anew in
    every forward pass and never stored, so that flows copy and pickle.
    """

    context_size: int = 0

    def reset_context(self, weight: Tensor, bias: Tensor) -> None:
        """Start values of the layer's rows of the context map, in place; zeros, hence the identity, unless overridden.

        :param weight: shape ``(context_size, context)``; context is 0 in an unconditional flow
        :param bias: shape ``(context_size,)``
        """
        nn.init.zeros_(weight)
        nn.init.zeros_(bias)

    def initialize(self, y: Tensor, parameters: Tensor) -> None:
        """Data-dependent start; none unless overridden.

        :param y: values on the data side of the layer, shape ``(*batch, d)``
        :param parameters: the layer's slice of the context map, as :meth:`forward` takes it
        """

    def forward(self, parameters: Tensor) -> Transform:
        """
        :param parameters: the layer's slice of the context map, shape ``(*batch, context_size)``
        :return: the transform with these parameters
        """
        raise NotImplementedError


class Constant(Layer):
    """A transform without parameters of the context: one fixed, or one whose own parameters are trained."""

    def __init__(self, transform: Transform):
        super().__init__()
        if not isinstance(transform, nn.Module):
            self.holder = Holder(transform)
            transform = self.holder.held
        self.transform = transform

    def forward(self, parameters: Tensor) -> Transform:
        holder = self._modules.get("holder")  # of one that an earlier version pickled: none
        return self.transform if holder is None else holder.held  # type: ignore[return-value]


@torch.no_grad()
def initialize_layers(layers: Sequence[Layer], y: Tensor, slices: Sequence[Tensor]) -> None:
    """Give every layer its data-dependent start, from the data to the noise, each after those before it.

    :param layers: noise to data
    :param y: data, shape ``(*batch, d)``
    :param slices: each layer's slice of the context map
    """
    for layer, parameters in zip(reversed(layers), reversed(slices), strict=True):
        layer.initialize(y, parameters)
        y, _ = layer(parameters).inverse_and_ladj(y)
