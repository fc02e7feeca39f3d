"""What do observations pass through? Running normalisations and perceptrons; torch alone."""

from flowrl.networks.batch_renorm import BatchRenorm, running_statistics
from flowrl.networks.normalization import DictNormalization, ReturnScale, RunningNormalization
from flowrl.networks.perceptron import Architecture, perceptron, project

__all__ = [
    "Architecture",
    "BatchRenorm",
    "DictNormalization",
    "ReturnScale",
    "RunningNormalization",
    "perceptron",
    "project",
    "running_statistics",
]
