"""Compiles this folder's C sources with the machine's own compiler, once, and keeps the result in the user's cache."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# No -ffast-math: a NaN must stay one. What is relaxed here changes no value that the kernels compute.
FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-shared",
    "-fPIC",
)
REAL = {torch.float32: ("-DREAL=float", "-DSINGLE"), torch.float64: ("-DREAL=double",)}


@functools.cache
def load(name: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """
    A source file of this folder, compiled for a floating-point type.

    Set the environment variable ``FLOWRL_NATIVE=0`` to do without.

    :param name: the file's name without ``.c``
    :param dtype: torch.float32 or torch.float64
    :return: the library; None where there is no compiler, or it fails: torch's own operations serve then
    """
    if dtype not in REAL or os.environ.get("FLOWRL_NATIVE") == "0":
        return None
    source = Path(__file__).with_name(f"{name}.c")
    compiler = _compiler()
    if compiler is None:
        log.warning(
            "flowrl found no C compiler (cc, gcc or clang), so that splines run on torch's own operations, several "
            "times slower on a CPU. Install one (Debian: apt install gcc), or set FLOWRL_NATIVE=0 to silence this."
        )
        return None
    command = [compiler, *FLAGS, *REAL[dtype]]
    texts = [path.read_text() for path in sorted(source.parent.glob("*.c"))]  # one includes another
    key = hashlib.sha256("\n".join([*texts, *command, _version(compiler), _processor()]).encode())
    library = _cache() / f"{name}-{key.hexdigest()[:16]}.so"
    try:
        if not library.exists():
            _compile([*command, str(source), "-lm"], library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("flowrl could not compile %s, and does without it: %s", source.name, reason)
        return None


def supports(*tensors: Tensor) -> bool:
    """Whether compiled kernels can take these tensors: one floating-point type, on the CPU, and in eager mode."""
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == tensors[0].dtype for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _compile(command: list[str], library: Path) -> None:
    """Into a file of its own first: several processes may start at once."""
    with tempfile.NamedTemporaryFile(dir=library.parent, suffix=".so", delete=False) as file:
        unfinished = file.name
    try:
        subprocess.run([*command, "-o", unfinished], check=True, capture_output=True, text=True)
        os.replace(unfinished, library)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _compiler() -> str | None:
    if sys.platform == "win32":
        return None
    candidates = [name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name]
    return next((path for path in map(shutil.which, candidates) if path), None)


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


def _processor() -> str:
    """What -march=native depends on: a home directory may be shared by machines of different kinds."""
    description = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return description
    kinds = ("model name", "flags", "Features")
    return description + "".join(sorted({line for line in lines if line.startswith(kinds)}))


def _cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        (root / "flowrl").mkdir(parents=True, exist_ok=True)
        return root / "flowrl"
    except OSError:  # no home, or a read-only one
        return Path(tempfile.mkdtemp(prefix="flowrl-"))
