"""What the processor of this machine is and can do."""

import platform
from functools import cache
from pathlib import Path

# Instructions that a processor may have beyond AVX2 and AVX-512, by their names in /proc/cpuinfo.
EXTRAS: dict[str, tuple[str, ...]] = {
    "avx-vnni": ("avx_vnni",),
    "avx512-vnni": ("avx512_vnni",),
    "avx512-bf16": ("avx512_bf16",),
    "avx512-fp16": ("avx512_fp16",),
    "amx-int8": ("amx_tile", "amx_int8"),
    "amx-bf16": ("amx_tile", "amx_bf16"),
}

# The same architecture has several names.
_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def host_extras() -> tuple[str, ...]:
    """Which of `EXTRAS` this machine has."""
    here = host_features()
    return tuple(name for name, flags in EXTRAS.items() if here.issuperset(flags))


def architecture(name: str) -> str:
    """One name for each architecture: `arm64` is `aarch64`."""
    return _ARCHITECTURES.get(name.lower(), name.lower())


@cache
def host_architecture() -> str:
    """The architecture of this machine: `x86_64`, `aarch64`, ..."""
    return architecture(platform.machine())


@cache
def host_features() -> frozenset[str]:
    """Processor flags of this machine, as Linux names them; empty where they cannot be read."""
    return frozenset((_processor_field("flags") or _processor_field("Features")).split())


@cache
def processor() -> str:
    """The name of this machine's processor; empty where it cannot be read."""
    return _processor_field("model name").strip()


def _processor_field(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in text.splitlines() if line.startswith(name)), "")
