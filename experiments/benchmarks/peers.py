"""Other people's libraries, none of which flowrl needs: imported when a contender is built, with what to install."""

import importlib
from typing import Any

INSTALL = {"zuko": "zuko", "normflows": "normflows", "nflows": "nflows", "sbx": "sbx-rl"}
PACKAGES = (*INSTALL.values(), "jax", "jaxlib")


class NotAvailable(Exception):
    """A contender that cannot take part here; the message says why, and what to install."""


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
