"""Joins compiled objects into a shared library, with whatever linker this machine has.

A system compiler is preferred (`c++`, `g++`, `clang++`, `cc`, `gcc`, `clang`); the Python package `ziglang`
contains a linker for machines that have none.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from ..errors import CompileError

_COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")


def link_command() -> list[str]:
    """The beginning of a command line that links shared libraries.

    Raises `CompileError` when this machine has neither a compiler nor the package `ziglang`.
    """
    for name in _COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return [found, "-shared", "-fPIC", "-Wl,--build-id=none"]
    if importlib.util.find_spec("ziglang") is not None:
        # Zig's LLD alone: going through `zig cc` would first build a C library.
        return [sys.executable, "-m", "ziglang", "ld.lld", "-shared", "--build-id=none"]
    raise CompileError(
        "no linker found to build the shared library: install a C compiler (for example gcc), "
        "or run `pip install ziglang`"
    )


def linker() -> Callable[..., None]:
    """A function `(output, objects)` that links with what `link_command` finds."""
    return make_linker(link_command())


def make_linker(command: Sequence[str]) -> Callable[..., None]:
    """A function `(output, objects)` in the form TVM's `export_library` expects; raises `CompileError`."""

    def link(output: str, objects: "str | Sequence[str]", **options: object) -> None:
        files = [objects] if isinstance(objects, str) else list(objects)
        done = subprocess.run([*command, "-o", output, *files], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(f"linking failed: {' '.join(command)}\n{(done.stderr or done.stdout).strip()[-2000:]}")

    link.object_format = "o"  # type: ignore[attr-defined]
    return link
