"""Importing flowrl registers its policies and does no more: no other flow library, no need of sb3-contrib."""

import subprocess
import sys
import textwrap
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

# Hides packages as if they were not installed: find_spec gives None, import raises ModuleNotFoundError.
HIDE = """
import sys

class Without:
    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

def hide(*packages):
    sys.meta_path[:] = [Without(finder, packages) for finder in sys.meta_path]
"""


def run(code: str) -> None:
    """Run code in a fresh interpreter; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE + textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


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


def test_importing_flowrl_loads_no_other_flow_library_and_changes_no_setting_of_torch():
    """(zuko patches torch's Transform and switches validation off for the whole process.)"""
    run(
        """
        import torch
        from torch.distributions import Distribution, Transform
        before = Distribution._validate_args, set(vars(Transform))
        import flowrl, stable_baselines3
        assert (Distribution._validate_args, set(vars(Transform))) == before
        stable_baselines3.SAC("FlowPolicy", "Pendulum-v1", policy_kwargs=dict(flow="nsf")).learn(8)
        loaded = {name.split(".")[0] for name in sys.modules} & {"zuko", "nflows", "normflows", "pyro"}
        assert not loaded, loaded
        """
    )


def test_flowrl_works_without_sb3_contrib_and_without_zuko():
    run(
        """
        hide("sb3_contrib", "zuko")
        import importlib.util
        assert importlib.util.find_spec("sb3_contrib") is None
        import flowrl
        from stable_baselines3 import PPO, SAC
        SAC("FlowPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), learning_starts=4).learn(8)
        PPO("FlowPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), n_steps=8, batch_size=8).learn(8)
        try:
            import sb3_contrib
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("the package was not hidden")
        """
    )


def test_transforms_and_flows_do_not_need_sb3():
    """They are plain torch, though the package around them registers the policies."""
    for folder in ("transforms", "layers", "flows", "adapters", "fit"):
        for path in (ROOT / "flowrl" / folder).glob("*.py"):
            assert "stable_baselines3" not in path.read_text(), path


def test_one_file_alone_knows_of_the_kernels():
    others = [path for path in (ROOT / "flowrl").rglob("*.py") if "kernels" not in path.parts]
    assert [path.name for path in others if "flowrl.kernels" in path.read_text()] == ["compiled.py"]
