"""Modules by the names that they had until version 0.1: models saved then, which name their classes so, still load."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "flowrl.action_flow": "flowrl.policies.action_distribution",
    "flowrl.action_plot": "flowrl.plots.policies",
    "flowrl.algorithms.behaviour_cloning": "flowrl.algorithms.cloning.behaviour_cloning",
    "flowrl.density": "flowrl.policies.density",
    "flowrl.distributions": "flowrl.policies.action_distribution",
    "flowrl.flow": "flowrl.flows.flow",
    "flowrl.importance": "flowrl.fit.importance",
    "flowrl.multiscale": "flowrl.flows.images",
    "flowrl.normalizing_flow": "flowrl.flows.distribution",
    "flowrl.plot": "flowrl.plots.densities",
    "flowrl.policies.actor": "flowrl.policies.off_policy",
    "flowrl.policies.actor_critic": "flowrl.policies.on_policy",
    "flowrl.policies.action_density": "flowrl.policies.density",
    "flowrl.recipes": "flowrl.flows.recipes",
    "flowrl.reparameterized": "flowrl.flows.distribution",
    "flowrl.sequence": "flowrl.flows.chunks",
    "flowrl.stochastic": "flowrl.flows.stochastic",
    "flowrl.warm_start": "flowrl.policies.warm_start",
}
"""Old name to new."""


class MovedModules(MetaPathFinder, Loader):
    """Finds a module of :data:`MOVED` by its old name: it is the module of the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def find_moved_modules() -> None:
    """Let the old names be imported, once and for all."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
