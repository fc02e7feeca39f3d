"""C structures as ctypes sees them: read from their declarations in csrc/, checked against the compiler's layout."""

import ctypes
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

CSRC = Path(__file__).with_name("csrc")
TYPES: dict[str, Any] = {"Size": ctypes.c_int64, "int": ctypes.c_int, "double": ctypes.c_double}
CHECKED = ("Step", "Flow", "Stack", "Adam", "Act", "Sac", "Nfq", "Returns", "Nfac", "Ppo")

EXTENDED = {"Nfac": ("sac",)}  # structures of which a part's fields are read and set as their own


@cache
def source() -> str:
    """The text of all C files, without comments."""
    text = "\n".join(path.read_text() for path in sorted(CSRC.glob("*.c")))
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


@cache
def structure(name: str) -> Any:
    """
    The ctypes form of a C structure.

    :param name: of its typedef
    """
    body = _declaration(rf"typedef struct {{([^}}]*)}} {name};")
    fields = [field for line in body.split(";") if line.strip() for field in _fields(line)]
    return type(name, (ctypes.Structure,), dict(_fields_=fields, _anonymous_=EXTENDED.get(name, ())))


@cache
def enumeration(name: str) -> dict[str, int]:
    """The members of a C enumeration that has a name."""
    return {member.strip(): i for i, member in enumerate(_declaration(rf"enum {name} {{([^}}]*)}};").split(","))}


@cache
def constant(name: str) -> int:
    """A number that a C enumeration gives a name."""
    return int(_declaration(rf"\b{name} = (\d+)"))


def layout_source() -> str:
    """C that includes all kernels, and tells the size and the offsets of every structure that Python fills in."""
    lines = ["#include <stddef.h>", '#include "kernels.c"']
    for name in CHECKED:
        offsets = [f"offsetof({name}, {field})" for field, _ in structure(name)._fields_]
        lines.append(f"const int64_t layout_{name}[] = {{sizeof({name}), {', '.join(offsets)}}};")
    return "\n".join([*lines, ""])


def check_layout(library: ctypes.CDLL) -> None:
    """
    Compare what the compiler says with what ctypes believes.

    :param library: made of :func:`layout_source`
    :raises OSError: where they differ
    """
    for name in CHECKED:
        ours = structure(name)
        believed = [ctypes.sizeof(ours), *(getattr(ours, field).offset for field, _ in ours._fields_)]
        told = list((ctypes.c_int64 * len(believed)).in_dll(library, f"layout_{name}"))
        if told != believed:
            raise OSError(f"the compiler lays out the structure {name} as {told}, ctypes as {believed}")


def _declaration(pattern: str) -> str:
    found = re.search(pattern, source())
    assert found, f"csrc/ declares nothing like {pattern}"
    return found[1]


def _fields(line: str) -> Iterator[tuple[str, Any]]:
    """The fields of one declaration: ``const REAL *a, *const *b`` are two pointers, ``double losses[4]`` an array."""
    kind, names = re.match(r"\s*(?:const )?(\w+)\s(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    for name in names.split(","):
        base = ctypes.c_void_p if "*" in name else TYPES.get(kind) or structure(kind)
        field, length = re.search(r"(\w+)(?:\[(\d+)\])?\s*$", name).groups()  # type: ignore[union-attr]
        yield field, base * int(length) if length else base
