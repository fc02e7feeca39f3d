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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
SOURCE = Path(__file__).parent / "csrc" / "kernels.c"  # which includes the others
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
        log.warning(
            "flowrl found no C compiler (cc, gcc or clang), so that flows and networks run on torch's own operations, "
            "several times slower. Install one (Debian: apt install gcc), or set FLOWRL_NATIVE=0 to silence this."
        )
        return None
    command = [compiler, *FLAGS, *REAL[dtype]]
    texts = [path.read_text() for path in sorted(SOURCE.parent.glob("*.c"))]  # one includes another
    key = hashlib.sha256("\n".join([*texts, *command, _version(compiler), _processor()]).encode())
    try:
        library = _cache() / f"{SOURCE.stem}-{key.hexdigest()[:16]}.so"
        if library.exists():
            try:
                return ctypes.CDLL(str(library))
            except OSError:  # half a file: a disk was full, a machine went down
                library.unlink()
        if not os.access(library.parent, os.W_OK):
            library = Path(tempfile.mkdtemp(prefix="flowrl-")) / library.name
        _compile([*command, str(SOURCE), "-lm"], library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("flowrl could not compile %s, and does without it: %s", SOURCE.name, reason)
        return None


TYPES: dict[str, Any] = {"n": ctypes.c_int64, "i": ctypes.c_int, "d": ctypes.c_double, "p": ctypes.c_void_p}


def fields(letters: str, names: str) -> list[tuple[str, Any]]:
    """
    :param letters: of ``TYPES``, one for each field of a C struct
    :param names: of the fields, with spaces between
    :return: what a `ctypes.Structure` is told of them
    """
    return [(name, TYPES[letter]) for name, letter in zip(names.split(), letters, strict=True)]


@functools.cache
def kernel(dtype: torch.dtype, name: str, arguments: str) -> Any | None:
    """
    A function of the library.

    :param dtype: torch.float32 or torch.float64
    :param name: of the C function
    :param arguments: a letter of ``TYPES`` for each
    :return: the function; None where there is no library
    """
    library = load(dtype)
    if library is None:
        return None
    function = library[name]
    function.argtypes, function.restype = [TYPES[letter] for letter in arguments], None
    return function


@functools.cache
def kernels(dtype: torch.dtype, name: str, forward: str, backward: str) -> tuple[Any, Any] | None:
    """
    A function of the library and its gradient.

    :param dtype: torch.float32 or torch.float64
    :param name: the C functions are ``name_forward`` and ``name_backward``
    :param forward: the arguments of the one, see :func:`kernel`
    :param backward: and of the other
    :return: both; None where there is no library
    """
    pair = kernel(dtype, f"{name}_forward", forward), kernel(dtype, f"{name}_backward", backward)
    return None if None in pair else pair


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """
    :param tensors: to be kept alive by the caller
    :return: an array of where they begin
    """
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def gradient_of_formula(
    formula: Callable[..., tuple[Tensor, Tensor]], inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """
    A kernel's gradient by autograd: for second derivatives (TRPO's Hessian-vector products) and under vmap.

    :param formula: what the kernel computes, in torch's operations
    :param inputs: its inputs
    :param gradients: the loss's gradients in its outputs
    :return: the loss's gradients in the inputs; None for those that need none
    """
    second = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: one input may depend on another (a value on the weights), which is not this gradient's business.
        aliases = [tensor.view_as(tensor) for tensor in inputs]
        outputs = formula(*aliases)
    wanted = [tensor for tensor in aliases if tensor.requires_grad]
    # A map whose stretch is the same everywhere has a log-determinant that depends on no value
    moved, given = zip(*((output, g) for output, g in zip(outputs, gradients) if output.requires_grad))
    found = iter(torch.autograd.grad(moved, wanted, given, create_graph=second))
    return tuple(next(found) if tensor.requires_grad else None for tensor in aliases)


def supports(*tensors: Tensor) -> bool:
    """Whether compiled kernels can take these tensors: one floating-point type, on the CPU, and in eager mode."""
    return (
        not is_traced()  # first: the compiler does not look at the rest then
        and all(tensor.device.type == "cpu" and tensor.dtype == tensors[0].dtype for tensor in tensors)
        and not any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))  # is_grads_batched
    )


def is_traced() -> bool:
    """Whether something other than eager reverse-mode autograd looks on, which a call of C would be hidden from."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()  # vmap, torch.func
        or torch._C._len_torch_dispatch_stack() > 0  # fake tensors, make_fx
        or forward_ad._current_level >= 0
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
    try:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowrl"
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    except (OSError, RuntimeError):  # no home, or a read-only one
        return Path(tempfile.mkdtemp(prefix="flowrl-"))
