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
    :param mujoco: the versions of MuJoCo that they work with, where the newest is none of them
    """

    module: str
    extra: str
    names: str
    mujoco: str = ""

    @property
    def installed(self) -> bool:
        """Whether its module can be imported."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install -e '.[{self.extra}]'"

    def which_mujoco(self) -> str:
        """The cure where an environment of it fails with a MuJoCo that it does not know."""
        return f"it needs mujoco {self.mujoco}, and {metadata.version('mujoco')} is installed; {self.command}"


# Gymnasium-Robotics 1.4.2 compares types of joints with numbers, which they are no longer; dm_control 1.0.50 reads a
# field that MuJoCo 4 does not have.
WORLDS = (
    World("gymnasium_robotics", "robotics", r"(Point|Ant)Maze_|AdroitHand"),
    World("gymnasium_robotics", "robotics", r"Fetch|Hand(Reach|Manipulate)|FrankaKitchen", mujoco="below 3.12"),
    World("shimmy", "dm-control", r"dm_control/", mujoco="below 4"),
)


def world_of(name: str) -> World | None:
    """
    :param name: an environment's, short or full, without its module
    :return: the package that brings it; None for one that Gymnasium, this library or nobody brings
    """
    return next((world for world in WORLDS if re.match(world.names, name, re.IGNORECASE)), None)
