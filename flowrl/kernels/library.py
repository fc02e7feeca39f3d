"""Compiles this folder's C sources with the machine's own compiler, once, and opens the result."""

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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowrl.kernels import cache
from flowrl.kernels.structures import CSRC, check_layout, layout_source, source

log = logging.getLogger(__name__)

# No -ffast-math: a NaN must stay one.
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
POINTER = ctypes.sizeof(ctypes.c_void_p)
SLOWER = "so that flows and networks run on torch's own operations, several times slower."
SILENCE = "set FLOWRL_NATIVE=0 to silence this"
NO_LIBRARY = "there is no C compiler that works here (a warning said why), or FLOWRL_NATIVE=0"
MAX_SIZES = 2  # of batches that an update keeps memory for
REAL = {torch.float32: ("-DREAL=float", "-DSINGLE"), torch.float64: ("-DREAL=double",)}


@functools.cache
def load(dtype: torch.dtype) -> ctypes.CDLL | None:
    """
    The kernels, compiled for a floating-point type.

    Set the environment variable ``FLOWRL_NATIVE=0`` to do without.

    :param dtype: torch.float32 or torch.float64
    :return: the library; None where there is no compiler, or it fails: torch's own operations serve then
    """
    if dtype not in REAL or os.environ.get("FLOWRL_NATIVE") == "0":
        return None
    compiler = _compiler()
    if compiler is None:
        cure = "On Windows they do always: WSL has a compiler"
        if sys.platform != "win32":
            cure = "Install one (Debian: apt install gcc libc6-dev)"
        log.warning("flowrl found no C compiler (cc, gcc or clang), %s %s, or %s.", SLOWER, cure, SILENCE)
        return None
    options = [*FLAGS, *REAL[dtype]]
    try:
        made_of = [source(), layout_source(), *options, _version(compiler), _processor()]
        key = hashlib.sha256("\n".join(made_of).encode())
        name = f"kernels-{key.hexdigest()[:16]}.so"
        kept = cache.find(name)
        if kept is not None:
            with suppress(OSError):  # on a file system from which nothing may be run
                return _open(kept)
        with tempfile.TemporaryDirectory(prefix="flowrl-") as directory:
            library = Path(directory) / name
            _compile([compiler, *options], library)
            found = cache.keep(library)
            if found is not None:
                with suppress(OSError):
                    return _open(found)
            return _open(library)  # it stays open when its file is deleted
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        cure = "Mend it (Debian: apt install gcc libc6-dev), name another one in the environment variable CC"
        log.warning(
            "flowrl could not compile its kernels with %s, %s %s, or %s: %s", compiler, SLOWER, cure, SILENCE, reason
        )
        return None


def _open(library: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(library))
    try:
        check_layout(opened)
    except ValueError as error:  # a symbol that is not there
        raise OSError(str(error)) from error
    return opened


@functools.cache
def function(dtype: torch.dtype, name: str, *integers: type) -> Any:
    """
    A C function of the number of threads, a structure's address and what else it takes; one returns a Size or nothing.

    :param dtype: torch.float32 or torch.float64, for which :func:`load` finds a library
    :param name: of the C function
    :param integers: types of further arguments
    """
    found = load(dtype)[name]  # type: ignore[index]
    found.argtypes, found.restype = [ctypes.c_int64, ctypes.c_void_p, *integers], ctypes.c_int64
    return found


def run(dtype: torch.dtype, name: str, job: ctypes.Structure) -> int:
    """
    Call a kernel on torch's threads.

    :param dtype: of the tensors that the job points to
    :param name: of the C function
    :param job: its structure, filled in
    :return: what it returns; no number of a meaning where that is nothing
    """
    return function(dtype, name)(torch.get_num_threads(), ctypes.addressof(job))


class Memory:
    """
    What a job works in, kept alive as long as this is.

    :param dtype: of its numbers
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.kept: list[Any] = []

    def __call__(self, *shape: int) -> int:
        """Where new memory of a shape begins."""
        self.kept.append(torch.empty(shape, dtype=self.dtype, device="cpu"))
        return self.kept[-1].data_ptr()


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """
    :param tensors: to be kept alive by the caller
    :return: an array of where they begin
    """
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _compile(command: list[str], library: Path) -> None:
    command = [*command, f"-I{CSRC}", "-x", "c", "-", "-lm", "-o", str(library)]
    subprocess.run(command, input=layout_source(), check=True, capture_output=True, text=True)


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
