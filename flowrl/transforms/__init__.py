"""Bijections x -> y with log|det dy/dx|, one family a file, as `torch.distributions` transforms."""

from flowrl.transforms.affine import Affine, LowRankShear, LULinear, Shear
from flowrl.transforms.autoregressive import Autoregressive
from flowrl.transforms.bounded import bounded
from flowrl.transforms.continuous import Continuous, TanhField
from flowrl.transforms.coupling import Coupling
from flowrl.transforms.permutation import Permutation
from flowrl.transforms.planar import Planar, planar_displacement
from flowrl.transforms.pointwise import Pointwise
from flowrl.transforms.radial import Radial
from flowrl.transforms.sigmoidal import Sigmoidal
from flowrl.transforms.spline import RationalQuadraticSpline, spline_knots
from flowrl.transforms.split import Split
from flowrl.transforms.squash import TanhBox
from flowrl.transforms.transform import Compose, Inverse, TorchTransform, Transform

__all__ = [
    "Affine",
    "Autoregressive",
    "Compose",
    "Continuous",
    "Coupling",
    "Inverse",
    "LULinear",
    "LowRankShear",
    "Permutation",
    "Planar",
    "Pointwise",
    "Radial",
    "RationalQuadraticSpline",
    "Shear",
    "Sigmoidal",
    "Split",
    "TanhBox",
    "TanhField",
    "TorchTransform",
    "Transform",
    "bounded",
    "planar_displacement",
    "spline_knots",
]
