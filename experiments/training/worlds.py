"""Environments of other packages: which module brings a name, and how it is installed."""

import importlib.util
import re
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class World:
    """
    A package of environments.

    :param module: what registers them when it is imported
    :param extra: of flowrl's, which installs it
    :param names: a pattern that their names begin with
    :param mujoco: the first version of MuJoCo that they do not load with, if there is one
    """

    module: str
    extra: str
    names: str
    mujoco: str | None = None

    @property
    def installed(self) -> bool:
        """Whether its module can be imported."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install -e '.[{self.extra}]'"

    def too_new(self) -> str:
        """Which MuJoCo it needs, where the one that is installed is too new for it; else ""."""
        if self.mujoco is None or _numbers(metadata.version("mujoco")) < _numbers(self.mujoco):
            return ""
        return f"it needs mujoco below {self.mujoco}, and {metadata.version('mujoco')} is installed; {self.command}"


# Gymnasium-Robotics 1.4.2 compares types of joints with numbers, which they are no longer; dm_control 1.0.50 reads a
# field that MuJoCo 4 does not have.
WORLDS = (
    World("gymnasium_robotics", "robotics", r"(Point|Ant)Maze_|AdroitHand"),
    World("gymnasium_robotics", "robotics", r"Fetch|Hand(Reach|Manipulate)|FrankaKitchen", mujoco="3.12"),
    World("shimmy", "dm-control", r"dm_control/", mujoco="4.0"),
)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def world_of(name: str) -> World | None:
    """
    :param name: an environment's, short or full, without its module
    :return: the package that brings it; None for one that Gymnasium, this library or nobody brings
    """
    return next((world for world in WORLDS if re.match(world.names, name, re.IGNORECASE)), None)
