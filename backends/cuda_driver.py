"""Lets TVM make GPU code on machines without a GPU.

TVM puts machine code into a library only where its CUDA runtime is loaded, and that needs the driver's library. Where
there is no driver, a library of the same name stands in for it, whose functions all fail as those of NVIDIA's own
stub do: it is never asked for anything while code is built. A driver that is there is always taken instead.
"""

import ctypes
import os
import tempfile
from pathlib import Path

import tvm
import tvm_ffi

from ..errors import TargetError
from . import gpu
from .linker import link_command, make_linker
from .runtime import load_runtime_library

_DRIVER = "libcuda.so.1"
# What TVM's CUDA runtime takes from the driver.
_FUNCTIONS = (
    "cuDeviceGetName",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuLaunchKernelEx",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuTensorMapEncodeTiled",
)
_STUB_LIBRARY = 34  # CUDA_ERROR_STUB_LIBRARY


def load_code_generator() -> None:
    """Make TVM able to store machine code for GPUs; raises `TargetError` where a library is missing."""
    if tvm_ffi.get_global_func("ffi.Module.create.cuda", allow_missing=True) is not None:
        return
    gpu.load_cudart()
    try:
        ctypes.CDLL(_DRIVER, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _load_stub()
    gpu.load_tvm_cuda(Path(load_runtime_library()._name).parent)
    if tvm_ffi.get_global_func("ffi.Module.create.cuda", allow_missing=True) is None:
        raise TargetError("this build of TVM cannot store machine code for GPUs: install apache-tvm from PyPI")


def _load_stub() -> None:
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        text, code, library = (os.path.join(folder, name) for name in ("stub.ll", "stub.o", _DRIVER))
        lines = [f"define i32 @{name}() {{ ret i32 {_STUB_LIBRARY} }}" for name in _FUNCTIONS]
        Path(text).write_text(
            "\n".join([f'target triple = "{tvm.target.Target("llvm").attrs.get("mtriple", "")}"', *lines, ""])
        )
        tvm_ffi.get_global_func("ffi.Module.load_from_file.ll")(text, "ll").write_to_file(code, "o")
        command = link_command()
        soname = [f"-soname={_DRIVER}"] if "ld.lld" in command else [f"-Wl,-soname,{_DRIVER}"]
        make_linker([*command, *soname])(library, code)
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
