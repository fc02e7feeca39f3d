"""One transform of the channels at every position of a grid: Glow's 1x1 convolution, in time as in space."""

from torch import Tensor

from flowrl.transforms.transform import Transform


class Pointwise(Transform):
    r"""A grid of positions, each a vector of channels, under one transform: :math:`y_p = g(x_p)`, with
    :math:`\log|\det| = \sum_p \log|\det \partial y_p / \partial x_p|` (Kingma and Dhariwal 2018, table 1).

    Values are flat: position after position, the channels of one position side by side.

    :param transform: g, of vectors of size ``channels``; its parameters broadcast over ``(*batch, positions)``
    :param channels: size of the vector at one position
    """

    def __init__(self, transform: Transform, channels: int):
        super().__init__()
        self.transform = transform
        self.channels = channels

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, ladj = self.transform.call_and_ladj(self._grid(x))
        return self._flat(y), ladj.sum(-1)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, ladj = self.transform.inverse_and_ladj(self._grid(y))
        return self._flat(x), ladj.sum(-1)

    # By reshape: after unflatten and flatten ONNX takes the batch's size for a constant

    def _grid(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.channels, self.channels)

    def _flat(self, y: Tensor) -> Tensor:
        return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])
