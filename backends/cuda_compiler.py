"""CUDA C to machine code for one architecture, on machines with or without a GPU.

NVRTC from Python packages (`pip install graphprune[cuda]`) is preferred: it needs neither a toolkit nor a C compiler.
`nvcc` is used where it is the only one.

```python
compiler = find_compiler()
built = compiler.build(source, "sm_80")
built.cubin, built.usage["kernel"].registers
```
"""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from ..errors import CompileError, TargetError

# Multiply-adds are fused as everywhere; nothing else trades digits for speed: infinities, NaNs and divisions are exact.
_PTXAS = ("-v", "--warn-on-local-memory-usage")
_INSTALL = "install NVRTC (`pip install 'graphprune[cuda]'`), or put nvcc of a CUDA toolkit on the PATH"
# What NVRTC lacks of the C++ headers that the code generator includes.
_HEADERS = {
    "cuda/std/cstdint": """#pragma once
namespace cuda { namespace std {
typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t; typedef long long int64_t; typedef unsigned long long uint64_t;
} }
""",
    "cuda/std/type_traits": """#pragma once
namespace cuda { namespace std {
template <typename A, typename B> struct is_same { static constexpr bool value = false; };
template <typename A> struct is_same<A, A> { static constexpr bool value = true; };
template <typename A, typename B> inline constexpr bool is_same_v = is_same<A, B>::value;
template <bool B, typename T = void> struct enable_if {};
template <typename T> struct enable_if<true, T> { typedef T type; };
template <bool B, typename T, typename F> struct conditional { typedef T type; };
template <typename T, typename F> struct conditional<false, T, F> { typedef F type; };
template <typename T> struct is_integral { static constexpr bool value = false; };
template <typename T> struct is_signed { static constexpr bool value = T(-1) < T(0); };
template <typename T> struct is_unsigned { static constexpr bool value = !(T(-1) < T(0)); };
template <typename T> struct is_floating_point { static constexpr bool value = false; };
} }
""",
}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes of a multiprocessor: registers per thread, bytes of shared memory known when compiled,
    and bytes that spill to memory because registers do not suffice."""

    registers: int
    shared: int
    spilled: int


@dataclass(frozen=True)
class Built:
    """Machine code (`cubin`, an ELF file) and what its kernels take."""

    cubin: bytes
    usage: dict[str, Usage]


class Compiler(Protocol):
    """What builds machine code from CUDA C."""

    name: str

    def build(self, source: str, arch: str) -> Built:
        """Machine code for `arch`, such as `sm_80`; raises `CompileError` with what the compiler says."""


@cache
def find_compiler() -> Compiler:
    """NVRTC, or else nvcc; raises `TargetError` where there is neither."""
    found = Nvrtc.find() or Nvcc.find()
    if found is None:
        raise TargetError(f"no compiler for CUDA was found: {_INSTALL}")
    return found


class Nvrtc:
    """NVIDIA's compiler as a library, from Python packages or a toolkit."""

    def __init__(self, library: Path, includes: Sequence[Path]) -> None:
        # Some releases look for their second library by its name alone, which is found when it is loaded already.
        self._parts = [ctypes.CDLL(str(part)) for part in sorted(library.parent.glob("libnvrtc-builtins.so*"))]
        self._library = ctypes.CDLL(str(library))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        self._includes = tuple(includes)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.name = f"nvrtc {major.value}.{minor.value}"

    @classmethod
    def find(cls) -> "Nvrtc | None":
        """NVRTC with its headers, or None where one of them is missing."""
        libraries = [path for root in _roots() for folder in ("lib", "lib64") for path in _libraries(root / folder)]
        includes = [root / "include" for root in _roots() if (root / "include").is_dir()]
        has_headers = any((folder / "cuda_fp16.h").exists() for folder in includes)
        for library in libraries if has_headers else ():
            try:
                return cls(
                    library, [path for folder in includes for path in (folder, folder / "cccl") if path.is_dir()]
                )
            except (OSError, CompileError):
                continue
        return None

    def build(self, source: str, arch: str) -> Built:
        """Machine code for `arch`."""
        flags = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device", "--device-int128"]
        flags += [f"--ptxas-options={flag}" for flag in _PTXAS] + [f"-I{folder}" for folder in self._includes]
        encoded = [flag.encode() for flag in flags]
        program = ctypes.c_void_p()
        names = (ctypes.c_char_p * len(_HEADERS))(*(name.encode() for name in _HEADERS))
        texts = (ctypes.c_char_p * len(_HEADERS))(*(text.encode() for text in _HEADERS.values()))
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", len(_HEADERS), texts, names
        )
        try:
            status = self._library.nvrtcCompileProgram(
                program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)
            )
            log = self._read("nvrtcGetProgramLog", program).decode(errors="replace").rstrip("\0")
            if status:
                raise CompileError(f"{self.name} refused the code for {arch}: {_first_errors(log)}")
            return Built(self._read("nvrtcGetCUBIN", program), parse_usage(log))
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, name: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        self._call(name, program, buffer)
        return buffer.raw[: size.value]

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CompileError(f"{name} failed: {self._library.nvrtcGetErrorString(status).decode()}")


class Nvcc:
    """The compiler of a CUDA toolkit."""

    def __init__(self, program: str) -> None:
        self._program = program
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        version = re.search(r"release (\d+\.\d+)", done.stdout)
        self.name = f"nvcc {version.group(1)}" if version else "nvcc"

    @classmethod
    def find(cls) -> "Nvcc | None":
        """The nvcc of the PATH, of `CUDA_HOME`, or where toolkits usually lie; None where there is none."""
        places = [root / "bin" / "nvcc" for root in _toolkits()]
        found = shutil.which("nvcc") or next((str(path) for path in places if path.exists()), None)
        return cls(found) if found else None

    def build(self, source: str, arch: str) -> Built:
        """Machine code for `arch`."""
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
            # Names of files end up in the code: relative ones, so that equal sources give equal bytes.
            Path(folder, "kernels.cu").write_text(source)
            flags = ["-cubin", f"-arch={arch}", "-O3", "-std=c++17", f"--ptxas-options={','.join(_PTXAS)}"]
            done = subprocess.run(
                [self._program, *flags, "-o", "kernels.cubin", "kernels.cu"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            log = done.stdout + done.stderr
            if done.returncode:
                raise CompileError(f"{self.name} refused the code for {arch}: {_first_errors(log)}")
            return Built(Path(folder, "kernels.cubin").read_bytes(), parse_usage(log))


def parse_usage(log: str) -> dict[str, Usage]:
    """What each kernel takes, from the remarks of the assembler."""
    found = {}
    for part in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'([^']+)'", part)
        registers = re.search(r"Used (\d+) registers", part)
        if name and registers:
            shared = re.search(r"(\d+) bytes smem", part)
            spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
            found[name.group(1)] = Usage(
                int(registers.group(1)),
                int(shared.group(1)) if shared else 0,
                sum(map(int, spilled.groups())) if spilled else 0,
            )
    return found


def _first_errors(log: str) -> str:
    lines = [line for line in log.splitlines() if "error" in line.lower()] or log.splitlines()
    return " | ".join(lines[:3])[:600]


def _roots() -> list[Path]:
    """Folders that may hold `lib` and `include` of CUDA: those of Python packages, then toolkits."""
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    # Packages of CUDA 13 share one folder; those of CUDA 12 have one each.
    return [*(folder for package in packages for folder in sorted(package.glob("c*"), reverse=True)), *_toolkits()]


def _toolkits() -> list[Path]:
    named = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return [*named, *(path for path in (Path("/usr/local/cuda"),) if path.is_dir())]


def _libraries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("libnvrtc.so*") if "alt" not in path.name)
