"""Importing flowrl registers its policies and does no more: no other flow library, no need of sb3-contrib."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from stable_baselines3 import A2C, PPO, SAC

import flowrl  # noqa: F401
from flowrl.policies import (
    ActionDensity,
    FlowActorCriticCnnPolicy,
    FlowActorCriticPolicy,
    FlowCnnPolicy,
    FlowMultiInputActorCriticPolicy,
    FlowMultiInputPolicy,
    FlowPolicy,
)
from tests.models import ALGORITHMS, build

ROOT = Path(__file__).parents[2]

ALONE = """
import sys

HIDDEN, wanted = {"sb3_contrib", "zuko", "nflows", "normflows", "pyro", "minari"}, set()

class Without:
    # As if they were not installed: find_spec gives None, import raises ModuleNotFoundError.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            wanted.add(name.split(".")[0])
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import torch
from torch.distributions import Distribution, Transform
before = Distribution._validate_args, set(vars(Transform))
import flowrl
from stable_baselines3 import PPO, SAC
assert (Distribution._validate_args, set(vars(Transform))) == before
SAC("FlowPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), learning_starts=4).learn(8)
PPO("FlowPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), n_steps=8, batch_size=8).learn(8)
assert wanted == {"sb3_contrib"}, wanted
assert not [name for name in sys.modules if name.startswith("flowrl.envs.")]
assert "matplotlib" not in sys.modules, "importing it takes longer than importing flowrl"
"""


def test_policies_are_importable_by_name_and_registered():
    """The dotted path `flowrl.policies.FlowPolicy` is what RL Zoo's files take."""
    assert SAC.policy_aliases["FlowPolicy"] is FlowPolicy
    assert SAC.policy_aliases["FlowCnnPolicy"] is FlowCnnPolicy
    assert SAC.policy_aliases["FlowMultiInputPolicy"] is FlowMultiInputPolicy
    for algorithm in (PPO, A2C):
        assert algorithm.policy_aliases["FlowPolicy"] is FlowActorCriticPolicy
        assert algorithm.policy_aliases["FlowCnnPolicy"] is FlowActorCriticCnnPolicy
        assert algorithm.policy_aliases["FlowMultiInputPolicy"] is FlowMultiInputActorCriticPolicy


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_policy_class_serves_as_well_as_its_name(algorithm):
    by_name = build(algorithm)
    by_class = build(algorithm, policy=ALGORITHMS[algorithm][0].policy_aliases["FlowPolicy"])
    assert type(by_name.policy) is type(by_class.policy)
    assert isinstance(by_name.policy, ActionDensity)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_where_none_is_named_the_flow_is_the_policys_default(algorithm):
    model = build(algorithm)
    expected = "affine" if algorithm in ("PPO", "A2C", "TRPO") else "triangular"
    assert model.policy.flow_spec["flow"] == model.policy_class.default_flow == expected
    assert build(algorithm, policy_kwargs=dict(flow="nsf")).policy.flow_spec["flow"] == "nsf"


def test_flowrl_needs_no_other_flow_library_nor_sb3_contrib_and_changes_no_setting_of_torch():
    """(zuko patches torch's Transform and switches validation off for the whole process.)"""
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["transforms", "layers", "flows", "adapters", "fit"])
def test_flows_do_not_need_sb3(folder):
    """They are plain torch, though the package around them registers the policies."""
    files = list((ROOT / "flowrl" / folder).glob("*.py"))
    assert files
    assert not [path.name for path in files if re.search("(from|import) stable_baselines3", path.read_text())]


def test_one_file_alone_knows_of_the_kernels():
    others = [path for path in (ROOT / "flowrl").rglob("*.py") if "kernels" not in path.parts]
    assert [path.name for path in others if '"flowrl.kernels"' in path.read_text()] == ["__init__.py"]
