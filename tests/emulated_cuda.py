"""Runs artifacts for GPUs on this machine's processor: `with recorded() as sources: ...; run(artifact, sources, x)`.

The artifact is the real one, host code and manifest included. Only three things are put in place of others: the
memory of the GPU is that of the processor, the driver is not asked, and the kernels are those that the C++ compiler
makes of the very CUDA C from which the artifact's machine code was built (`cuda_emulation/`).
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import tvm_ffi

from graphprune.backends import cuda_build, cuda_compiler, driver
from graphprune.backends.artifact import Artifact
from graphprune.backends.runtime import load_runtime_library

_HEADERS = Path(__file__).parent / "cuda_emulation"
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)\s*\{')
_TAGS = tuple(f"{kind}Idx.{axis}" for kind in ("block", "thread") for axis in "xyz")
_DYNAMIC = "tirx.use_dyn_shared_memory"
_CACHE = Path(tempfile.mkdtemp(prefix="graphprune-emulation-"))


class Recorder:
    """A compiler that remembers what it is given."""

    def __init__(self, compiler: cuda_compiler.Compiler) -> None:
        self.compiler, self.sources, self.name = compiler, [], compiler.name

    def build(self, source: str, arch: str) -> cuda_compiler.Built:
        self.sources.append(source)
        return self.compiler.build(source, arch)


def compiler() -> cuda_compiler.Compiler:
    """The compiler for CUDA, or the test is skipped."""
    try:
        return cuda_compiler.find_compiler()
    except cuda_compiler.TargetError as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """The CUDA C of everything that is compiled meanwhile."""
    recorder = Recorder(compiler())
    with mock.patch.object(cuda_build, "find_compiler", lambda: recorder):
        yield recorder.sources


def emulated(artifact: Artifact, sources: list[str], capability: tuple[int, int]) -> Artifact:
    """The artifact as it would be on a machine with such a GPU."""
    if shutil.which("g++") is None:
        pytest.skip("the emulation needs g++")
    load_runtime_library()
    _register("device_api.cuda", tvm_ffi.get_global_func("device_api.cpu"))
    pending = list(sources)

    def load(data: bytes) -> tvm_ffi.Module:
        return tvm_ffi.load_module(str(_library(pending.pop(0), bytes(data))))

    _register("ffi.Module.load_from_bytes.cuda", load)
    _last.append(Graphs())
    _register("vm.builtin.cuda_graph.run_or_capture", _last[-1].run)
    with mock.patch.object(driver, "compute_capability", lambda: capability):
        return Artifact(artifact.library, artifact.manifest)


class Graphs:
    """Recorded graphs: once recorded, the same kernels run on the same memory, whatever is given."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Any, Any]] = {}

    def run(self, machine: Any, function: Any, arguments: Any, index: int, *shape: Any) -> Any:
        invoke = tvm_ffi.get_global_func("vm.builtin.invoke_closure")
        if index not in self.known:
            self.known[index] = function, list(arguments), invoke(machine, function, *arguments)
        else:
            invoke(machine, self.known[index][0], *self.known[index][1])
        return self.known[index][2]


_last: list[Graphs] = []


def graphs() -> Graphs:
    """What the artifact that was emulated last has recorded."""
    return _last[-1]


def run(artifact: Artifact, sources: list[str], *inputs: Any, capability: tuple[int, int] = (8, 0)) -> Any:
    """What the artifact computes, with the threads of each block in ascending and in descending order: they must
    agree."""
    results = []
    program = emulated(artifact, sources, capability)
    for descending in "01":
        with mock.patch.dict(os.environ, {"CUDA_EMULATION_DESCENDING": descending}):
            results.append(program(*inputs))
    for first, second in zip(*map(_leaves, results), strict=True):
        assert first.tobytes() == second.tobytes(), "the result depends on the order of threads: a barrier is missing"
    return results[0]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    if getattr(value, "dtype", None) == torch.bfloat16:  # numpy has no such type: compare bits
        value = value.view(torch.int16)
    return [value.detach().numpy() if hasattr(value, "detach") else value]


def _register(name: str, function: Any) -> None:
    tvm_ffi.register_global_func(name, function, override=True)


def _library(source: str, module: bytes) -> Path:
    """The kernels as a library of functions that the runtime can call."""
    source = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 __shared__", source)
    text = source.replace("extern __shared__", "extern") + _DYNAMIC_MEMORY + "".join(_wrappers(source, module))
    path = _CACHE / f"{hashlib.sha256(text.encode()).hexdigest()}.so"
    if not path.exists():
        code = path.with_suffix(".cc")
        code.write_text(text)
        command = ["g++", "-std=c++17", "-O1", "-w", "-fPIC", "-shared", f"-I{_HEADERS}"]
        command += [f"-I{folder}" for folder in _includes()]
        done = subprocess.run([*command, "-o", str(path), str(code)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:3000]
    return path


def _includes() -> list[str]:
    from tvm_ffi import libinfo

    return libinfo.include_paths()


_DYNAMIC_MEMORY = """
#include <tvm/ffi/c_api.h>
alignas(128) unsigned char buf_dyn_shmem[256 * 1024];
"""


def _wrappers(source: str, module: bytes) -> Iterator[str]:
    """For each kernel a function in the runtime's form, which launches it as the module says."""
    kernels = _KERNEL.findall(source)
    assert kernels, "no kernel was found in the source"
    for name, parameters in kernels:
        types = [item.strip().rpartition(" ")[0].replace("__restrict__", "") for item in parameters.split(",") if item]
        fields = ["v_ptr" if "*" in kind else "v_int64" for kind in types]
        values = [f"({kind})args[{i}].{field}" for i, (kind, field) in enumerate(zip(types, fields, strict=True))]
        place = {tag: f"unsigned(args[{len(types) + i}].v_int64)" for i, tag in enumerate(launch_tags(module, name))}
        grid = ", ".join(place.get(tag, "1u") for tag in _TAGS[:3])
        block = ", ".join(place.get(tag, "1u") for tag in _TAGS[3:])
        yield (
            f'extern "C" int __tvm_ffi_{name}(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {{\n'
            f"  emulation::launch([=] {{ {name}({', '.join(values)}); }}, uint3{{{grid}}}, uint3{{{block}}});\n"
            "  result->type_index = kTVMFFINone; result->zero_padding = 0; result->v_int64 = 0; return 0;\n}\n"
        )


def launch_tags(module: bytes, kernel: str) -> list[str]:
    """In which order the sizes of grid and block follow the arguments of a kernel; from the module as it is stored."""
    start = module.index(len(kernel).to_bytes(8, "little") + kernel.encode())
    found = []
    while True:
        tags = [(module.find(tag.encode(), start), tag) for tag in (*_TAGS, _DYNAMIC)]
        # Names are stored one right after the other: eight bytes of length between them.
        place, tag = min(((at, tag) for at, tag in tags if at >= 0), default=(-1, ""))
        if place < 0 or (found and place > start + 16):
            return found
        found.append(tag)
        start = place + len(tag)
