"""torch's `TransformedDistribution` as a module whose parameters are trained."""

from torch.distributions import TransformedDistribution

from flowrl.transforms.holder import Holder


class TrainedDistribution(Holder):
    """
    A `TransformedDistribution` as a module that gives it, see :class:`flowrl.transforms.holder.Holder`.

    :param distribution: over vectors; a copy is used
    """

    def __init__(self, distribution: TransformedDistribution):
        super().__init__(distribution, copied=True)

    def forward(self) -> TransformedDistribution:
        return self.held
