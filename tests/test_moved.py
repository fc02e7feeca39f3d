"""What was saved or written before the house moved still finds its classes by the names that they had."""

import importlib
import pickle

import pytest

from flowrl.moved import MOVED
from flowrl.policies import FlowActorCriticPolicy, FlowPolicy


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_new_module(old):
    assert importlib.import_module(old) is importlib.import_module(MOVED[old])


@pytest.mark.parametrize(
    ("module", "cls"), [("flowrl.policies.actor", FlowPolicy), ("flowrl.policies.actor_critic", FlowActorCriticPolicy)]
)
def test_a_class_that_was_pickled_by_its_old_name_loads(module, cls):
    """As Stable-Baselines3's files hold a model's policy class."""
    assert pickle.loads(f"c{module}\n{cls.__name__}\n.".encode()) is cls
