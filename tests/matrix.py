"""The tests at the oldest and newest supported versions of Python, torch, Stable-Baselines3 and gymnasium.

``make test-matrix`` makes an environment a row in ``.matrix/``, installs flowrl in it, runs the tests that a change of
version would break, prints one line and deletes the environment: torch brings some 6 GB of CUDA's libraries. A row
whose Python is not on this machine is skipped, and that is said. `.github/workflows/ci.yml` runs the same rows.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".matrix"
TESTS = ["tests/conformance", "tests/policies", "tests/transforms"]
"""What touches SB3, sb3-contrib, gymnasium and torch's distributions; the rest is mathematics that rests on these."""
TOOLS = ["pytest>=8", "hypothesis>=6.100", "torchdiffeq>=0.2.3", "zuko>=1.3", "nflows>=0.14", "normflows>=1.7", "tqdm"]
NAMED = ["torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy"]
"""The packages whose versions a row's line says."""


def lower_bounds() -> list[str]:
    """``torch==2.8``, ...: the oldest versions that pyproject.toml allows of what flowrl[contrib] needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["contrib"]
    return [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in needed]


def no_pins() -> list[str]:
    """Whatever pip finds."""
    return []


def constraints() -> list[str]:
    """The versions of constraints.txt, at which everything is tested."""
    return ["-c", "constraints.txt"]


ROWS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "oldest": ("3.11", lower_bounds),
    "constraints": ("3.12", constraints),
    "newest": ("3.13", no_pins),
}
"""A row's Python, and what it tells pip beside flowrl's own requirements."""


def interpreter(version: str) -> str | None:
    """
    :param version: of Python, "3.11"
    :return: the path of one that runs; None where there is none: on the path, among pyenv's, or this process's own
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}")), sys.executable]
    for candidate in filter(None, found):
        asked = [str(candidate), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True)
        if answer.stdout.strip() == version:
            return str(candidate)
    return None


def run_row(name: str, keep: bool, arguments: list[str]) -> bool:
    """
    Install and test one row, and print its line.

    :param name: of the row
    :param keep: whether its environment stays, for a closer look
    :param arguments: of pytest, in place of the folders of :data:`TESTS`
    :return: whether nothing failed
    """
    version, pins = ROWS[name]
    python = interpreter(version)
    if python is None:
        print(f"{name}: skipped, Python {version} is not on this machine", flush=True)
        return True
    environment = ENVIRONMENTS / name
    own = str(environment / "bin" / "python")
    log = ENVIRONMENTS / f"{name}.log"
    ENVIRONMENTS.mkdir(exist_ok=True)
    started = time.monotonic()
    with open(log, "w") as output:

        def succeeds(*words: str) -> bool:
            return subprocess.run(words, cwd=ROOT, stdout=output, stderr=output).returncode == 0

        asked = "\n".join([*pins(), *((ROOT / file).read_text() for file in ("pyproject.toml", "constraints.txt"))])
        note = environment / ".installed"
        if not note.exists() or note.read_text() != asked:
            shutil.rmtree(environment, ignore_errors=True)
            install = [own, "-m", "pip", "install", "--no-cache-dir", "--progress-bar", "off"]
            if not (
                succeeds(python, "-m", "venv", str(environment))
                and succeeds(*install, "-e", ".[contrib]", *TOOLS, *pins())
            ):
                print(f"{name}: pip cannot install it, see {log.relative_to(ROOT)}", flush=True)
                return False
            note.write_text(asked)
        tests = [own, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *(arguments or TESTS)]
        passed = succeeds(*tests)
    last = log.read_text().splitlines()[-1].strip("= ")
    print(f"{name}: {installed(own)}: {last} ({time.monotonic() - started:.0f} s in all)", flush=True)
    if passed and not keep:
        shutil.rmtree(environment)
    return passed


def installed(python: str) -> str:
    """
    :param python: of an environment
    :return: "Python 3.11.7, torch 2.8.0, ...": of :data:`NAMED`
    """
    asked = (
        "import importlib.metadata as m, json, platform, sys; "
        "print(json.dumps([platform.python_version()] + [m.version(name) for name in sys.argv[1:]]))"
    )
    versions = json.loads(subprocess.check_output([python, "-c", asked, *NAMED], text=True))
    return ", ".join(f"{name} {version}" for name, version in zip(["Python", *NAMED], versions))


def main() -> int:
    """
    Run the command.

    :return: the exit code: 1 if a row failed
    """
    parser = argparse.ArgumentParser(prog="matrix.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--keep", action="store_true", help="keep the environments of rows that pass")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="of pytest, in place of the usual")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - ROWS.keys():
        parser.error(f"unknown rows {sorted(unknown)}: there are {', '.join(ROWS)}")
    passed = [run_row(name, arguments.keep, arguments.pytest) for name in arguments.rows or ROWS]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
