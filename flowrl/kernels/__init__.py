"""What makes it fast on a CPU: flows, acting and updates in C, compiled at first use where a C compiler is found.

A leaf: the library works without this folder. `flowrl.compiled` alone asks it for compiled forms.
"""

from flowrl.kernels.acting import act
from flowrl.kernels.fused_flow import compiled_flow
from flowrl.kernels.networks import STATELESS_EXTRACTORS
from flowrl.kernels.update import compiled_update

__all__ = ["STATELESS_EXTRACTORS", "act", "compiled_flow", "compiled_update"]
