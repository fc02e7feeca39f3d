"""A flow computes in the precision of its weights, float32 or float64, under autocast as well: exactness needs it.

In bfloat16 a log-determinant of seventeen dimensions is wrong by nats, and a triangular system cannot be solved at all.
Under ``torch.autocast`` the networks before a flow run in bfloat16, and the flow does not.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor

from flowrl.transforms import Compose


def full_precision(device: str) -> AbstractContextManager:
    """
    Without autocast, if it is on.

    :param device: a device's type, ``"cpu"`` or ``"cuda"``
    """
    is_on = device != "meta" and torch.is_autocast_enabled(device)  # which knows no device that computes nothing
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


@contextmanager
def without_autocast() -> Iterator[None]:
    """Without autocast on any device: for the distribution of another library, which does not say where it is."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(full_precision(device))
        yield


class InFullPrecision(Compose):
    """Transforms one after the other, whose networks are not cast to a lower precision."""

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(x.device.type):
            return super().call_and_ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(y.device.type):
            return super().inverse_and_ladj(y)
