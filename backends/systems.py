"""Operating systems on architectures: who links shared libraries for them here, and where their runtime comes from.

```python
system_of("aarch64-unknown-linux-gnu").wheel      # "manylinux_2_28_aarch64"
```
"""

import platform
from dataclasses import dataclass

from ..errors import TargetError
from .host import architecture, host_architecture


@dataclass(frozen=True)
class System:
    """One operating system on one architecture.

    `compilers` are the names of cross compilers, the preferred one first, and `package` what Debian calls theirs. `zig`
    are arguments of the Python package `ziglang` that link a shared library. `wheel` is the platform of the wheels that
    contain the runtime, as pip names it. `emulator` runs its programs on other machines, from the Debian package
    `qemu-user-static`; empty where there is none.
    """

    name: str
    architecture: str
    compilers: tuple[str, ...]
    package: str
    zig: tuple[str, ...]
    wheel: str
    emulator: str = ""

    @property
    def is_here(self) -> bool:
        """Whether this machine is one."""
        here = _NAMES.get(platform.system(), platform.system())
        return self.name == here and self.architecture == host_architecture()


_NAMES = {"Linux": "linux", "Darwin": "macos"}
# Zig's LLD alone: going through `zig cc` would first build a C library.
LLD = ("ld.lld", "-shared", "--build-id=none")

SYSTEMS = (
    System(
        name="linux",
        architecture="x86_64",
        compilers=("x86_64-linux-gnu-g++", "x86_64-linux-gnu-gcc"),
        package="g++-x86-64-linux-gnu",
        zig=LLD,
        wheel="manylinux_2_28_x86_64",
        emulator="qemu-x86_64-static",
    ),
    System(
        name="linux",
        architecture="aarch64",
        compilers=("aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc"),
        package="g++-aarch64-linux-gnu",
        zig=LLD,
        wheel="manylinux_2_28_aarch64",
        emulator="qemu-aarch64-static",
    ),
    System(
        name="macos",
        architecture="aarch64",
        compilers=(),
        package="",
        zig=("cc", "-target", "aarch64-macos", "-shared", "-undefined", "dynamic_lookup"),
        wheel="macosx_11_0_arm64",
    ),
)


def system_of(triple: str) -> System:
    """The system that a triple of LLVM names; raises `TargetError` for one that nobody can link for."""
    words = triple.split("-")
    name = "macos" if any(word.startswith(("macos", "darwin")) for word in words) else "linux"
    for system in SYSTEMS:
        if system.architecture == architecture(words[0]) and system.name == name and (name == "macos" or name in words):
            return system
    known = ", ".join(f"{system.architecture}-...-{system.name}" for system in SYSTEMS)
    raise TargetError(f"shared libraries cannot be linked for the triple {triple!r}; known are: {known}")
