"""Joins compiled objects into a shared library, with whatever linker this machine has.

A system compiler is preferred (`c++`, `g++`, `clang++`, `cc`, `gcc`, `clang`; a cross compiler where the library is for
another machine); the Python package `ziglang` contains a linker, for every system, for machines that have none.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from ..errors import CompileError
from .systems import LLD, System, system_of

_COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")


def link_command(triple: str | None = None) -> list[str]:
    """The beginning of a command line that links shared libraries for a system, or for this machine.

    Raises `CompileError` when this machine has neither a compiler for it nor the package `ziglang`.
    """
    system = None if triple is None else system_of(triple)
    here = system is None or system.is_here
    for name in _COMPILERS if here else system.compilers:
        found = shutil.which(name)
        if found is not None:
            return [found, "-shared", "-fPIC", "-Wl,--build-id=none"]
    if importlib.util.find_spec("ziglang") is not None:
        arguments = LLD if system is None else system.zig
        return [sys.executable, "-m", "ziglang", *arguments]
    raise CompileError(f"no linker found to build the shared library: {_advice(None if here else system)}")


def _advice(system: System | None) -> str:
    """How to get a linker for a system, or for this machine."""
    if system is None:
        return "install a C compiler (for example gcc), or run `pip install ziglang`"
    package = f"on Debian and Ubuntu `apt-get install {system.package}`, or anywhere " if system.package else ""
    return f"for {system.architecture} {system.name}, {package}`pip install ziglang`"


def linker(triple: str | None = None) -> Callable[..., None]:
    """A function `(output, objects)` that links with what `link_command` finds."""
    return make_linker(link_command(triple))


def make_linker(command: Sequence[str]) -> Callable[..., None]:
    """A function `(output, objects)` in the form TVM's `export_library` expects; raises `CompileError`."""

    def link(output: str, objects: "str | Sequence[str]", **options: object) -> None:
        files = [objects] if isinstance(objects, str) else list(objects)
        done = subprocess.run([*command, "-o", output, *files], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(f"linking failed: {' '.join(command)}\n{(done.stderr or done.stdout).strip()[-2000:]}")

    link.object_format = "o"  # type: ignore[attr-defined]
    return link
