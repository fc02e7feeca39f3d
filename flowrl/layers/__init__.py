"""Layers: the trainable parts that recipes are made of; each gives one transform from its slice of the context map."""

from flowrl.layers.autoregressive import AutoregressiveLayer
from flowrl.layers.bijectors import AffineBijector, GatedBijector, SigmoidalBijector, SplineBijector
from flowrl.layers.continuous import ContinuousLayer
from flowrl.layers.convolutional import ConvolutionalCoupling, DilatedNetwork, ImageNetwork
from flowrl.layers.coupling import CouplingLayer
from flowrl.layers.elementwise import Elementwise
from flowrl.layers.grid import Grid, PointwiseLayer, SplitLayer
from flowrl.layers.layer import Constant, Layer
from flowrl.layers.linear import ActNorm, InvertibleLinear, LowRankShearLayer, Reorder, ShearLayer, Shuffle
from flowrl.layers.residual import PlanarLayer, RadialLayer

__all__ = [
    "ActNorm",
    "AffineBijector",
    "AutoregressiveLayer",
    "Constant",
    "ContinuousLayer",
    "ConvolutionalCoupling",
    "CouplingLayer",
    "DilatedNetwork",
    "Elementwise",
    "GatedBijector",
    "Grid",
    "ImageNetwork",
    "InvertibleLinear",
    "Layer",
    "LowRankShearLayer",
    "PlanarLayer",
    "PointwiseLayer",
    "RadialLayer",
    "Reorder",
    "ShearLayer",
    "Shuffle",
    "SigmoidalBijector",
    "SplineBijector",
    "SplitLayer",
]
