"""Other people's libraries, none of which flowrl needs: imported when a contender is built, with what to install."""

import importlib
from typing import Any

from experiments.benchmarks.turns import NotAvailable

INSTALL = {
    "zuko": "zuko",
    "normflows": "normflows",
    "nflows": "nflows",
    "sbx": "sbx-rl",
}
PACKAGES = ("zuko", "normflows", "nflows", "sbx-rl", "jax", "jaxlib")


def load(module: str) -> Any:
    """
    Import a contender's library.

    :param module: its name
    :return: the module
    :raises NotAvailable: if it is not installed
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in INSTALL:
            raise  # it is there, but something that it needs is not
        raise NotAvailable(f"{error.name} is not installed: pip install {INSTALL[error.name]}") from None


def load_sbx(device: str) -> Any:
    """
    Import Stable-Baselines in JAX.

    :param device: ``cpu`` or ``cuda``, where its models are to run
    :return: the module
    :raises NotAvailable: if it is not installed, or JAX has no such device
    """
    sbx = load("sbx")
    if device == "cuda" and importlib.import_module("jax").default_backend() != "gpu":
        raise NotAvailable("JAX finds no GPU: pip install 'jax[cuda12]'")
    return sbx


def wait_for_jax(*arrays: Any) -> None:
    """
    Wait for the work that JAX does in the background.

    :param arrays: what it computes
    """
    importlib.import_module("jax").block_until_ready(arrays)


def jax_parameters(*states: Any) -> int:
    """
    Count parameters.

    :param states: trees of arrays
    :return: how many numbers they hold
    """
    return sum(leaf.size for leaf in importlib.import_module("jax").tree_util.tree_leaves(states))
