"""Runs artifacts for ARM in an emulator: `emulator().run(artifact, x)`; skips the test where there is none.

Needs `qemu-aarch64-static` and `aarch64-linux-gnu-g++` (on Debian and Ubuntu the packages qemu-user-static and
g++-aarch64-linux-gnu), and once the wheels of the runtime for ARM, which pip fetches into build/runtime-aarch64.
Where `GRAPHPRUNE_EMULATOR` is `required`, what is missing fails the test.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import tvm_ffi

from graphprune.backends.artifact import Artifact
from graphprune.backends.compiler import compile_model
from graphprune.backends.linker import link_command
from graphprune.backends.outputs import unflatten
from graphprune.backends.systems import system_of
from graphprune.errors import CompileError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "runtime-aarch64"
SYSTEM = system_of("aarch64-unknown-linux-gnu")
# Programs of this system find their C library here.
SYSROOT = Path("/usr/aarch64-linux-gnu")
_LIBRARIES = ("libtvm_runtime.so", "libtvm_ffi.so")
# Types of elements as DLPack counts them.
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_TYPES = {(0, 32): "int32", (0, 64): "int64", (0, 8): "int8", (1, 8): "uint8", (2, 32): "float32", (6, 8): "bool"}


class Emulator:
    """A processor of another kind, and a program that runs libraries on it."""

    def __init__(self, qemu: str, runner: Path) -> None:
        self.qemu, self.runner = qemu, runner

    def run(self, artifact: Artifact, *inputs: torch.Tensor, cpu: str = "max", threads: int = 1) -> list[torch.Tensor]:
        """All tensors that the artifact returns for some inputs."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "library.so").write_bytes(artifact.library)
            for number, value in enumerate(inputs):
                _write(folder / f"in{number}", value.numpy())
            command = [self.qemu, "-L", SYSROOT, "-cpu", cpu, "-E", f"LD_LIBRARY_PATH={FOLDER}"]
            command += ["-E", f"TVM_NUM_THREADS={threads}", self.runner, folder / "library.so", "main"]
            done = subprocess.run([*command, folder, str(len(inputs))], capture_output=True, text=True, timeout=300)
            assert not done.returncode, f"{done.returncode}: {done.stdout}{done.stderr}"
            outputs = [folder / f"out{number}" for number in range(len(artifact.outputs))]
            return [torch.from_numpy(_read(path)) for path in outputs]


class Emulated:
    """An artifact for ARM that is called like one of this machine."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact, self._emulator = artifact, emulator()

    def __call__(self, *inputs: torch.Tensor) -> Any:
        leaves = self._emulator.run(self.artifact, *inputs)
        return unflatten(self.artifact.manifest["output_tree"], leaves, lambda leaf: leaf)


def compile_emulated(model: Any, target: str = "arm", example_inputs: Any = None) -> Emulated:
    """What `compile_model` gives on an ARM machine, whatever target a test names."""
    return Emulated(compile_model(model, target if target.startswith("arm") else "arm", example_inputs))


def _write(path: Path, array: np.ndarray) -> None:
    sizes = [_CODES[array.dtype.kind], array.itemsize * 8, array.ndim, *array.shape]
    path.write_bytes(f"{' '.join(map(str, sizes))}\n".encode() + np.ascontiguousarray(array).tobytes())


def _read(path: Path) -> np.ndarray:
    head, _, body = path.read_bytes().partition(b"\n")
    code, bits, _, *sizes = map(int, head.split())
    return np.frombuffer(bytearray(body), _TYPES[code, bits]).reshape(sizes)


def emulator() -> Emulator:
    """The emulator of this machine; skips the test, or fails it where it is required, if something is missing."""
    found = _prepare()
    return found if isinstance(found, Emulator) else _lacking(found)


def need_linker() -> None:
    """Skips the test, or fails it, where libraries for ARM cannot be linked."""
    try:
        link_command("aarch64-unknown-linux-gnu")
    except CompileError as error:
        _lacking(str(error))


def _lacking(what: str) -> NoReturn:
    if os.environ.get("GRAPHPRUNE_EMULATOR") == "required":
        pytest.fail(what)
    pytest.skip(what)


@cache
def _prepare() -> "Emulator | str":
    """An emulator, or what is missing."""
    qemu, compiler = shutil.which(SYSTEM.emulator), shutil.which(SYSTEM.compilers[0])
    if qemu is None or compiler is None or not SYSROOT.is_dir():
        return f"no emulator: apt-get install qemu-user-static {SYSTEM.package}"
    try:
        _fetch_runtime()
        return Emulator(qemu, _build_runner(compiler))
    except subprocess.CalledProcessError as error:
        return f"no runtime for {SYSTEM.architecture}: {str(error.stderr)[-500:]}"


def _fetch_runtime() -> None:
    """The runtime for ARM out of its wheels, once."""
    packages = [f"{name}=={version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]
    stamp = FOLDER / "versions"
    if stamp.exists() and stamp.read_text() == " ".join(packages):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--platform", SYSTEM.wheel, "--dest", folder, *packages]
        subprocess.run(command, check=True, capture_output=True, text=True)
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if Path(member).name in _LIBRARIES:
                        _write_whole(FOLDER / Path(member).name, archive.read(member))
    missing = [name for name in _LIBRARIES if not (FOLDER / name).exists()]
    assert not missing, f"the wheels lack {missing}"
    _write_whole(stamp, " ".join(packages).encode())


def _build_runner(compiler: str) -> Path:
    """The program in runner.cc, compiled once for each version of it."""
    source = Path(__file__).with_name("runner.cc")
    digest = hashlib.sha256(source.read_bytes() + (FOLDER / "versions").read_bytes()).hexdigest()[:16]
    runner = FOLDER / f"runner-{digest}"
    if not runner.exists():
        include = Path(tvm_ffi.__file__).parent / "include"
        made = runner.with_suffix(f".{os.getpid()}")
        command = [compiler, "-std=c++17", "-O1", "-I", include, source, "-o", made, "-L", FOLDER]
        command += ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-Wl,--allow-shlib-undefined"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        made.rename(runner)
    return runner


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(content)
    temporary.rename(path)
