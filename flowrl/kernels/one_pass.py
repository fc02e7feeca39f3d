"""A flow in one pass of the C kernel where it can serve, layer by layer elsewhere: the transform, the distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowrl.flows.distribution import NormalizingFlow, standard_normal_log_prob
from flowrl.kernels import flow as native
from flowrl.kernels.flow import Program
from flowrl.transforms import Transform
from flowrl.transforms.transform import as_rows

if TYPE_CHECKING:
    from flowrl.flows.flow import Flow


class InOnePass(Transform):
    """A flow made of steps that the C kernel knows: the kernel where it can serve, else layer by layer.

    :param parameters: the context map's output, shape ``(*batch, n)``
    :param weights: of the layers' own networks
    :param program: the kernel's steps
    :param flow: which builds the same transform layer by layer
    """

    def __init__(self, parameters: Tensor, weights: list[Tensor], program: Program, flow: Flow):
        super().__init__()
        self.parameters, self.weights, self.program, self.flow = parameters, weights, program, flow

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.through(x, inverse=False)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.through(y, inverse=True)

    def through(self, value: Tensor, inverse: bool, density: bool = False) -> tuple[Tensor, Tensor]:
        """
        :param value: noise, or x where ``inverse``, shape ``(*batch, d)``
        :param inverse: whether x is given and the noise sought
        :param density: whether the log-density of x is wanted, not the log-determinant
        :return: the image, shape ``(*batch, d)``, and what is wanted, ``(*batch,)``
        """
        parameters, weights, shape = self.parameters, self.weights, value.shape
        if not native.is_available(value, parameters, weights):
            return _LayerByLayer(self.flow)(value, parameters, inverse, density)
        options: Any = (self.program, self._with_weights, inverse, density)
        if value.dim() == 2 and parameters.shape[:-1] == shape[:-1]:
            return native.evaluate(value, parameters, weights, *options)
        batch, (value, parameters) = as_rows(value, parameters)  # several values a state, or a single state
        image, number = native.evaluate(value, parameters, weights, *options)
        return image.view(*batch, -1), number.view(batch)

    def _with_weights(
        self, value: Tensor, parameters: Tensor, *weights: Tensor, inverse: bool, density: bool
    ) -> tuple[Tensor, Tensor]:
        """The formula as a function of the weights too."""
        formula = _LayerByLayer(self.flow)
        names = {id(weight): name for name, weight in formula.named_parameters()}
        named = {names[id(own)]: weight for own, weight in zip(self.weights, weights)}
        return torch.func.functional_call(formula, named, (value, parameters, inverse, density))


class FlowInOnePass(NormalizingFlow):
    """The same distribution, whose log-density comes from the kernel too."""

    transform: InOnePass

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        return self.transform.through(self._noise(sample_shape), inverse=False, density=True)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.transform.through(self._expanded(value), inverse=True, density=True)[1]


class _LayerByLayer(nn.Module):
    """A flow's pass, each layer by itself."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.layers, self.transform_of = flow.layers, flow._transform

    def forward(self, value: Tensor, parameters: Tensor, inverse: bool, density: bool) -> tuple[Tensor, Tensor]:
        transform = self.transform_of(parameters)
        image, ladj = transform.inverse_and_ladj(value) if inverse else transform.call_and_ladj(value)
        return image, standard_normal_log_prob(image if inverse else value) - ladj if density else ladj
