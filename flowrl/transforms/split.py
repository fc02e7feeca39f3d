"""The split of the multi-scale architecture: some features go through a transform, the others leave it (RealNVP)."""

from torch import Tensor

from flowrl.transforms.transform import Transform, concatenate


class Split(Transform):
    r"""The first n features are transformed, the rest passes (Dinh et al. 2017, section 3.6):
    :math:`y_{\le n} = g(x_{\le n})`, :math:`y_{> n} = x_{> n}`, with g's log-determinant.

    :param transform: g, of vectors of size n
    :param features: n
    """

    def __init__(self, transform: Transform, features: int):
        super().__init__()
        self.transform = transform
        self.features = features

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, ladj = self.transform.call_and_ladj(x[..., : self.features])
        return concatenate(y, x[..., self.features :]), ladj

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, ladj = self.transform.inverse_and_ladj(y[..., : self.features])
        return concatenate(x, y[..., self.features :]), ladj
