"""Flows with noise between their layers, whose density is exact for a whole path (Wu, Koehler and Noe 2020)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowrl.compiled import compiled_segments
from flowrl.flows.distribution import standard_normal_log_prob
from flowrl.flows.flow import LOG_STD_MAX, Flow, build_parts, soft_clamp
from flowrl.flows.precision import InFullPrecision, full_precision
from flowrl.flows.recipes import DEFAULT_FLOW, AnyFlow
from flowrl.layers import Layer
from flowrl.layers.noise import GaussianNoise, NoiseStep
from flowrl.options import between, whole
from flowrl.transforms import Affine, Transform

NOISE_LAYERS, NOISE_STD = 1, 0.7  # unless one says otherwise


class PathFlow(Flow):
    r"""A conditional flow with K noise layers, evenly between the layers of a recipe: it gives paths.

    The noise layers cut the recipe's layers into the segments :math:`T_0, ..., T_K`, the last of which ends with the
    scale and mean of the context. A path is what each segment gives:

    .. math:: w_0 = T_0(z), \; z \sim N(0, I); \qquad
              y_k \sim q_k(y \mid w_{k-1}), \; w_k = T_k(y_k), \; k = 1, ..., K

    (see :class:`flowrl.layers.noise.GaussianNoise` for q), and its end :math:`u = w_K` is the flow's value. A value's
    density is an integral over all paths that end there. A path's is exact:

    .. math:: \log p(w_0, ..., w_K) = \log N(T_0^{-1}(w_0); 0, I) - \log|\det T_0'|
              + \sum_{k=1}^K \left( \log q_k(T_k^{-1}(w_k) \mid w_{k-1}) - \log|\det T_k'| \right)

    Each segment's output is taken down, rather than its input or the noise, so that every layer enters the density as
    that of a flow does. Noise layers keep N(0, I) what it is: a new flow's values have the Gaussian of its context as
    every new :class:`flowrl.Flow`.

    :param features: d
    :param context: dimension of the context; 0: an unconditional flow
    :param flow: see :class:`flowrl.Flow`; layers, not a module of another library
    :param noise_layers: K, at most as many as the flow has layers (one, where it has none)
    :param noise_std: standard deviation sigma of the noise at the start, in (0, 1). A shift of the last segment by
        delta moves a path's density by a divergence of delta^2 / (2 sigma^2): with little noise, steps that are bounded
        by that divergence are small
    :param options: passed to the recipe
    :raises ValueError: for another K or standard deviation, or a flow that is no list of layers
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        flow: AnyFlow = DEFAULT_FLOW,
        noise_layers: int = NOISE_LAYERS,
        noise_std: float = NOISE_STD,
        context_gain: float = 1.0,
        conditioner_gain: float | None = None,
        log_std_max: float = LOG_STD_MAX,
        **options: Any,
    ):
        check_noise(noise_layers, noise_std)
        parts = build_parts(flow, features, context, options)
        if not isinstance(parts, (Sequence, nn.ModuleList)):
            raise ValueError(
                f"noise_layers={noise_layers}: noise goes between the layers of a flow, and {flow!r} is a module of "
                "another library. Take one of flowrl's recipes or a list of layers, or noise_layers=0."
            )
        if noise_layers > max(len(parts), 1):
            raise ValueError(
                f"noise_layers={noise_layers} is more than the {len(parts)} layers of flow {flow!r} that they could go "
                "between: take fewer, or more of the others (flow_kwargs=dict(layers=...))."
            )
        # After the j-th layer, j from 1 on, as evenly as they can be
        places = [math.ceil(k * len(parts) / (noise_layers + 1)) for k in range(1, noise_layers + 1)]
        segments = [list(parts[i:j]) for i, j in zip([0, *places], [*places, len(parts)])]
        mixed: Any = segments[0]
        for segment in segments[1:]:
            mixed += [GaussianNoise(features, noise_std), *segment]
        super().__init__(features, context, mixed, context_gain, conditioner_gain, log_std_max)

    def from_parameters(self, parameters: Tensor) -> "PathDistribution":  # type: ignore[override]
        runs: list[list[Layer]] = [[]]
        noise: list[GaussianNoise] = []
        sizes = [2 * self.features, 0]  # of the mean and log-std, a segment, noise, a segment, ...
        for layer in self._layers():
            if isinstance(layer, GaussianNoise):
                noise.append(layer)
                runs.append([])
                sizes += [layer.context_size, 0]
            else:
                runs[-1].append(layer)
                sizes[-1] += layer.context_size
        gaussian, *parts = parameters.split(sizes, dim=-1)
        of_segments, of_noise = parts[::2], parts[1::2]
        of_segments[-1] = _side_by_side(gaussian, of_segments[-1])
        segments = [Segment(self.features, nn.ModuleList(run), run is runs[-1], self.log_std_max) for run in runs]
        transforms = compiled_segments(self, segments, of_segments)
        if transforms is None:
            transforms = [segment.transform_of(part) for segment, part in zip(segments, of_segments)]
        with full_precision(parameters.device.type):
            steps = [layer(part) for layer, part in zip(noise, of_noise)]
        return PathDistribution(transforms, steps, gaussian[..., : self.features])

    def transform_of(self, parameters: Tensor) -> Transform:
        raise TypeError("A PathFlow is no transform: there is noise between its layers.")

    def initialize(self, data: Tensor, context: Tensor | None = None) -> None:
        raise TypeError("A PathFlow has no start from data: values do not tell the paths that end there.")


class Segment(NamedTuple):
    """The layers between two noise layers.

    :param features: d
    :param layers: noise to value
    :param is_last: whether the scale and mean of the context come after them
    :param log_std_max: see :class:`flowrl.Flow`
    """

    features: int
    layers: nn.ModuleList
    is_last: bool
    log_std_max: float = LOG_STD_MAX

    def transform_of(self, parameters: Tensor) -> Transform:
        """Layer by layer.

        :param parameters: mean and log-std in the last segment, then the layers' slices of the context map, shape
            ``(*batch, n)``
        """
        layers: Any = list(self.layers)
        own = [self.features] * 2 if self.is_last else []
        parts = parameters.split([*own, *(layer.context_size for layer in layers)], dim=-1)
        with full_precision(parameters.device.type):
            transforms = [layer(part) for layer, part in zip(layers, parts[len(own) :])]
        if self.is_last:
            transforms.append(Affine(parts[0], soft_clamp(parts[1], self.log_std_max)))
        return InFullPrecision(transforms)


class PathDistribution(Distribution):
    """Paths of a :class:`PathFlow` in given contexts, each as one vector (w_0, ..., w_K) of (K + 1) d numbers.

    :param segments: T_0, ..., T_K
    :param steps: the noise between them, K
    :param like: any tensor of shape ``(*batch, d)`` with the dtype and device of the samples
    """

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, segments: Sequence[Transform], steps: Sequence[NoiseStep], like: Tensor):
        size = len(segments) * like.shape[-1]
        super().__init__(like.shape[:-1], torch.Size([size]), validate_args=False)
        self.segments, self.steps = segments, steps
        self._like = like

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Paths, shape ``(*sample_shape, *batch, (K + 1) d)``."""
        return self.rsample_and_path_log_prob(sample_shape)[0]

    def rsample_and_path_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """
        :param sample_shape: shape of the draw
        :return: paths, shape ``(*sample_shape, *batch, (K + 1) d)``; log-densities, ``(*sample_shape, *batch)``
        """
        path, log_prob, _ = self._walk(self._noise(sample_shape))
        return path, log_prob

    def from_noise_and_path_log_prob(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param z: noise, shape ``(*batch, (K + 1) d)``
        :return: the paths that it becomes, of the same shape, and their log-densities, shape ``(*batch,)``
        """
        path, log_prob, _ = self._walk(z.chunk(len(self.segments), dim=-1))
        return path, log_prob

    def rsample_with_way_back(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor]:
        r"""
        As above, and the log-density of the path's beginning given its end, by the backward kernels.

        .. math:: \log r(w_0, ..., w_{K-1} \mid w_K) = \sum_{k=1}^K \log r_k(w_{k-1} \mid T_k^{-1}(w_k))

        :param sample_shape: shape of the draw
        :return: paths, their log-densities, and those of the way back, shape ``(*sample_shape, *batch)``
        """
        path, log_prob, way_back = self._walk(self._noise(sample_shape), with_way_back=True)
        return path, log_prob, way_back  # type: ignore[return-value]

    def path_log_prob(self, path: Tensor) -> Tensor:
        """
        :param path: shape ``(*batch, (K + 1) d)``
        :return: its log-density, shape ``(*batch,)``
        :raises ValueError: for paths of another size
        """
        w = self._ends(path)
        z, ladj = self.segments[0].inverse_and_ladj(w[0])
        log_prob = standard_normal_log_prob(z) - ladj
        for step, segment, before, after in zip(self.steps, self.segments[1:], w, w[1:], strict=False):
            y, ladj = segment.inverse_and_ladj(after)
            log_prob = log_prob + step.log_forward(y, before) - ladj
        return log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            "A PathFlow has no log_prob: a value's density is an integral over all paths that lead to it. "
            "path_log_prob gives that of a whole path."
        )

    def log_det(self, path: Tensor) -> Tensor:
        """Sum of the segments' log-determinants along a path, shape ``(*batch,)``."""
        ends = self._ends(path)
        return sum(segment.inverse_and_ladj(end)[1] for segment, end in zip(self.segments, ends))  # type: ignore[return-value]

    def center(self) -> Tensor:
        """The path of no noise at all, shape ``(*batch, (K + 1) d)``: a deterministic policy's action is its end."""
        return self._walk([torch.zeros_like(self._like)] * len(self.segments))[0]

    def _walk(self, noise: Sequence[Tensor], with_way_back: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """The path of some noise, its log-density, and that of the way back if it is asked for."""
        w, ladj = self.segments[0].call_and_ladj(noise[0])
        log_prob, way_back = standard_normal_log_prob(noise[0]) - ladj, torch.zeros_like(ladj)
        path = [w]
        for step, segment, epsilon in zip(self.steps, self.segments[1:], noise[1:], strict=True):
            y, log_forward = step.sample(w, epsilon)
            if with_way_back:
                with full_precision(w.device.type):  # of its network
                    way_back = way_back + step.log_backward(w, y)
            w, ladj = segment.call_and_ladj(y)
            log_prob = log_prob + log_forward - ladj
            path.append(w)
        return torch.cat(path, dim=-1), log_prob, way_back if with_way_back else None

    def _noise(self, sample_shape: tuple[int, ...]) -> Sequence[Tensor]:
        shape = (len(self.segments), *sample_shape, *self._like.shape)
        return torch.randn(shape, dtype=self._like.dtype, device=self._like.device).unbind(0)

    def _ends(self, path: Tensor) -> Sequence[Tensor]:
        """Where a path is after each segment, in the flow's precision, ``(*, (K + 1) d)`` -> each ``(*batch, d)``."""
        if path.shape[-1:] != self.event_shape:
            raise ValueError(f"A path has {self.event_shape[0]} numbers, got a tensor of shape {tuple(path.shape)}.")
        ends = path.to(self._like.dtype).unflatten(-1, (len(self.segments), -1)).unbind(-2)
        return [end.expand(torch.broadcast_shapes(end.shape, self._like.shape)) for end in ends]


def _side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """Parameters in one tensor, in the context map's own order in memory, by which C reads them."""
    if first.dim() != 2:
        return torch.cat((first, second), dim=-1)
    return torch.cat((first.t(), second.t())).t()


def check_noise(noise_layers: int, noise_std: float) -> None:
    """
    :param noise_layers: how many
    :param noise_std: of each, at the start
    :raises ValueError: for less than one, or a standard deviation outside (0, 1)
    """
    whole("noise_layers", noise_layers, 1)
    between("noise_std", noise_std, 0, 1)
