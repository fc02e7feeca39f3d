"""Fixtures that tests of several folders share."""

import pytest
import torch


@pytest.fixture
def float64():
    """Double precision by default, and a fixed seed."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
