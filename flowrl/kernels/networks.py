"""Multilayer perceptrons as the kernel knows them: linear layers, ReLU or tanh, before these maybe norms."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import Tensor, nn

from flowrl.flows.flow import ContextMap
from flowrl.kernels.structures import enumeration, structure
from flowrl.networks import BatchRenorm
from flowrl.networks.batch_renorm import EPSILON as BATCH_EPSILON
from flowrl.policies.normalized import NormalizedExtractor

Stack = structure("Stack")
NORMS = enumeration("Norm")
NO_PERCEPTRON = (
    "a network is not made of linear layers, each maybe with a layer norm or batch renormalisation, and ReLU or tanh "
    "between them"
)
BATCH_NORMED = "a network has batch renormalisation, which C knows in NFAC alone"


class Perceptron(NamedTuple):
    """What a `torch.nn.Sequential` of linear layers with one activation function between them is made of."""

    layers: list[nn.Linear]
    norms: list[nn.Module]  # of each layer that an activation follows; or none at all
    norm: str  # which of the kernel's they all are
    epsilon: float  # of the norms
    activation: type[nn.Module]
    active_end: bool  # whether the activation follows the last layer too

    @classmethod
    def read(cls, network: nn.Module) -> Perceptron | None:
        """The parts of a network; None if it is anything else."""
        if not isinstance(network, nn.Sequential):
            return None
        modules: list[Any] = list(network._modules.values())
        norm, epsilon, _ = _form(modules[1] if len(modules) > 1 else None)
        period = 3 if norm else 2
        layers, activations = modules[::period], modules[period - 1 :: period]
        norms = modules[1::period] if norm else []
        kinds = {type(module) for module in activations}
        if len(kinds) != 1 or not kinds <= {nn.ReLU, nn.Tanh} or (norm and len(norms) != len(activations)):
            return None
        if any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
            return None
        if any(_form(each) != (norm, epsilon, layer.out_features) for each, layer in zip(norms, layers)):
            return None
        return cls(layers, norms, norm or "NO_NORM", epsilon, kinds.pop(), len(layers) == len(activations))

    def followed_by(self, head: nn.Module) -> Perceptron | None:
        """The network with one more linear layer, where it ends in its activation."""
        is_linear = type(head) in (nn.Linear, ContextMap) and head.bias is not None
        if not self.active_end or not is_linear:
            return None
        return self._replace(layers=[*self.layers, head], active_end=False)  # type: ignore[list-item]

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the inputs, then of each layer's outputs."""
        return (self.layers[0].in_features, *(layer.out_features for layer in self.layers))

    @property
    def has_batch_norms(self) -> bool:
        """Whether it is normalised by the batch in training."""
        return self.norm == "BATCH_NORM"

    @property
    def shape(self) -> tuple[Any, ...]:
        """What networks must share to be stacked."""
        return self.widths, self.norm, self.epsilon, self.activation, self.active_end


def _form(norm: Any) -> tuple[str, float, int]:
    """Which of the kernel's norms this is, its epsilon and its width; "" where it is none of them."""
    if type(norm) is nn.LayerNorm and norm.bias is not None and len(norm.normalized_shape) == 1:
        return "LAYER_NORM", norm.eps, norm.normalized_shape[0]
    if type(norm) is BatchRenorm:
        return "BATCH_NORM", BATCH_EPSILON, len(norm.scale)
    return "", 0.0, 0


class Networks:
    """
    Networks of equal shapes, run side by side.

    :param networks: one or more
    """

    def __init__(self, networks: Sequence[Perceptron]):
        first, self.count = networks[0], len(networks)
        self.widths = first.widths
        self.is_tanh, self.active_end = first.activation is nn.Tanh, first.active_end
        # All first layers, then all second ones, ...
        self._layers = [linear for layer in zip(*(network.layers for network in networks)) for linear in layer]
        self._norms: list[Any] = [norm for layer in zip(*(network.norms for network in networks)) for norm in layer]
        self.has_batch_norms = first.has_batch_norms
        self._norm, self._epsilon = NORMS[first.norm], first.epsilon
        self._moments = (ctypes.c_void_p * (3 * len(self._norms) * self.has_batch_norms))()
        self.head = head = first.layers[-1]
        self.plain, self.gain = (head.plain, head.gain) if isinstance(head, ContextMap) else (0, 1.0)
        self._widths = (ctypes.c_int64 * len(self.widths))(*self.widths)

    @property
    def last_rounded(self) -> int:
        """The last layer, from 0, whose products may be rounded: not what gives a flow's parameters, or one number."""
        last = len(self.widths) - 2
        return max(last - (isinstance(self.head, ContextMap) or self.widths[-1] == 1), 0)

    def fields(self) -> dict[str, Any]:
        """What a C `Stack` is told of its shapes."""
        return dict(
            networks=self.count,
            depth=len(self.widths) - 1,
            widths=ctypes.addressof(self._widths),
            is_tanh=self.is_tanh,
            active_end=self.active_end,
            plain=self.plain,
            gain=self.gain,
            norm=self._norm,
            epsilon=self._epsilon,
            moments=ctypes.addressof(self._moments),
        )

    def parameters(self) -> list[Tensor]:
        """Matrices and biases as they are now, in the kernel's order, and after them the norms' scales and shifts."""
        linear = [tensor for layer in self._layers for tensor in (layer.weight, layer.bias)]
        names = ("scale", "shift") if self.has_batch_norms else ("weight", "bias")
        return [*linear, *(getattr(norm, name) for norm in self._norms for name in names)]

    @property
    def trains(self) -> bool:
        """Whether a batch norm goes by the batch."""
        return self.has_batch_norms and any(norm.training for norm in self._norms)

    def read_moments(self) -> bool:
        """
        Find the running moments of batch norms, for which a module may hold other tensors by now.

        :return: whether they are such as the kernel reads
        """
        found = [norm._buffers[name] for norm in self._norms for name in ("mean", "variance", "updates")]
        self._moments[:] = [moment.data_ptr() for moment in found]
        dtype = self._layers[0].weight.dtype
        sizes = [size for norm in self._norms for size in (len(norm.scale), len(norm.scale), 1)]
        return [moment.numel() for moment in found] == sizes and all(
            moment.dtype == dtype and moment.device.type == "cpu" and moment.is_contiguous() for moment in found
        )

    @property
    def rows(self) -> int:
        """Of the outputs of all layers."""
        return self.count * sum(self.widths[1:])

    def job(self, size: int, new: Callable[..., int], **fields: Any) -> Any:
        """
        A C `Stack` for batches of a size, with memory for its outputs and the gradients in them.

        :param size: of the batch
        :param new: where new memory of a shape begins
        :param fields: what else it is told
        """
        outputs, gradients = new(self.rows, size), new(self.rows, size)
        if self._norms:
            fields |= dict(normed=new(self.rows, size), to_normed=new(self.rows, size))
        if self.has_batch_norms:
            fields |= dict(renormed=new(self.rows, 3), by_batch=True)
        elif self._norms:
            fields |= dict(factors=new(self.count * (len(self.widths) - 1), size))
        return Stack(n=size, lanes=size, outputs=outputs, gradients=gradients, **self.fields(), **fields)


STATELESS_EXTRACTORS: set[type[nn.Module]] = {FlattenExtractor, CombinedExtractor}
"""Features extractors that may be run once where SB3 runs several of them; add one of your own that holds no state."""


def is_stateless(extractor: nn.Module) -> bool:
    """Whether a features extractor has neither parameters (a CombinedExtractor has, for images) nor any other state."""
    if type(extractor) is NormalizedExtractor:  # its statistics, which all networks share, move between updates alone
        extractor = extractor.extractor
    return type(extractor) in STATELESS_EXTRACTORS and next(extractor.parameters(), None) is None
