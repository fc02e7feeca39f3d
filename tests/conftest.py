"""Fixtures that tests of several folders share."""

import gc
import os
import sys

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--without-kernels", action="store_true", help="as if flowrl/kernels were not there")
    parser.addoption("--gaussian", action="store_true", help="tests/conformance with SB3's own policies, as a control")


def pytest_configure(config):
    if config.getoption("--without-kernels"):
        sys.modules["flowrl.kernels"] = None


def pytest_ignore_collect(collection_path, config):
    return True if config.getoption("--without-kernels") and collection_path.name == "kernels" else None


def pytest_collection_finish(session):
    """Every full collection of garbage would walk through all of torch: a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def folder_of_sb3(tmp_path_factory):
    """SB3 makes a folder in the system's temporary one for every model that logs nowhere, and leaves it: thousands."""
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))


@pytest.fixture
def float64():
    """Double precision by default, and a fixed seed."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
