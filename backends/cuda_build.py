"""Builds the library of a GPU target: kernels as machine code inside a shared library for the processor beside the
GPU."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import tvm
import tvm_ffi

from ..errors import CompileError
from . import cubin
from .cuda_compiler import Compiler, Usage, find_compiler
from .cuda_driver import load_code_generator
from .cuda_fragments import with_tf32
from .cuda_pipeline import cuda_pipeline, cuda_target
from .facts import facts_of
from .prediction import Facts
from .targets import Target

_CALLBACK = "tvm_callback_cuda_compile"


def build(
    module: tvm.IRModule, target: Target, link: Callable[..., None], precision: str, cuda_graph: bool
) -> tuple[bytes, dict[str, Facts], dict[str, Any]]:
    """The shared library with machine code for the GPU in it, the facts of its kernels, and what the compiler says.

    Raises `TargetError` where no compiler for CUDA is found, and `CompileError` where one refuses the code or the
    library would hold something else than machine code for the target.
    """
    compiler = find_compiler()
    load_code_generator()
    module = cuda_pipeline(target, precision, cuda_graph)(module)
    with _compiling(compiler, target, precision) as usage:
        # Tiles of half numbers and of sums must not share one array: TVM cannot address it as both.
        with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
            executable = tvm.compile(module, target=cuda_target(target), relax_pipeline=None)
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
            path = os.path.join(folder, "library.so")
            executable.export_library(path, fcompile=link)
            with open(path, "rb") as file:
                library = file.read()
    kernels = facts_of(module)
    if kernels or usage:  # a model that hands on its inputs has none
        check_machine_code(library, target)
    about = {
        "compiler": compiler.name,
        "precision": precision,
        "cuda_graph": cuda_graph,
        "kernels": {name: asdict(entry) for name, entry in sorted(usage.items())},
    }
    return library, kernels, about


def check_machine_code(library: bytes, target: Target) -> None:
    """Raise `CompileError` unless all GPU code of a library is machine code for the target's architecture."""
    found = cubin.architectures(library)
    if found != {target.device}:
        held = (
            f"machine code for {', '.join(sorted(found))}" if found else "no machine code (source alone would not do)"
        )
        raise CompileError(f"the library for {target.name} holds {held}; {target.device} was to be built")


@contextmanager
def _compiling(compiler: Compiler, target: Target, precision: str) -> Iterator[dict[str, Usage]]:
    """While this is open, TVM builds GPU code with this compiler; yields what the kernels take, as they are built."""
    usage: dict[str, Usage] = {}

    def build_kernels(source: str) -> bytes:
        built = compiler.build(with_tf32(source) if precision == "tf32" else source, target.device)
        if cubin.architectures(built.cubin) != {target.device}:
            raise CompileError(f"{compiler.name} built no machine code for {target.device}")
        usage.update(built.usage)
        return built.cubin

    before = tvm_ffi.get_global_func(_CALLBACK, allow_missing=True)
    tvm_ffi.register_global_func(_CALLBACK, build_kernels, override=True)
    try:
        yield usage
    finally:
        if before is None:
            tvm_ffi.registry.remove_global_func(_CALLBACK)
        else:
            tvm_ffi.register_global_func(_CALLBACK, before, override=True)
