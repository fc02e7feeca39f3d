"""The circumstances of a run: what somebody else would need to get the same numbers."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

import flowrl

ROOT = Path(__file__).resolve().parents[2]


def session(model: BaseAlgorithm) -> dict[str, Any]:
    """
    The circumstances of one session of training, for ``config.json``.

    :param model: the model at its start
    :return: command line, time, process, device, versions, commit
    """
    return dict(
        command=shlex.join(["python", *sys.argv]),
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        process=os.getpid(),
        from_step=model.num_timesteps,
        device=str(model.device),
        threads=torch.get_num_threads(),
        platform=platform.platform(),
        versions=versions(),
        git=git_state(),
    )


def versions() -> dict[str, str | None]:
    """The versions of everything that a result depends on."""
    packages = ("torch", "stable-baselines3", "gymnasium", "mujoco", "numpy")
    return dict(python=platform.python_version(), flowrl=flowrl.__version__) | versions_of(packages)


def versions_of(packages: Iterable[str]) -> dict[str, str | None]:
    """
    The installed versions of packages.

    :param packages: their names
    :return: name to version; None for what is not installed
    """
    result: dict[str, str | None] = {}
    for package in packages:
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            result[package] = None
    return result


def git_state() -> dict[str, Any] | None:
    """The checkout's commit, and whether files differ from it; None outside a repository."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", ".", ":!experiments/results")  # results change no result
        return dict(commit=git("rev-parse", "HEAD"), dirty=bool(changes))
    except (OSError, subprocess.CalledProcessError):
        return None
