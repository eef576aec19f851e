"""What running artifacts on a GPU takes beyond a processor: libraries, copies of tensors, torch's stream."""

import contextlib
import ctypes
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tvm_ffi

from ..errors import TargetError

CPU, CUDA, POOLED = 1, 2, 2
_TURNS = threading.Lock()
_RUNTIME = 13  # of CUDA, that TVM's runtime is linked against


def load_cuda_runtime(folder: Path) -> None:
    """Load TVM's CUDA runtime from its folder, and the CUDA runtime library that it needs; raises `TargetError`."""
    if tvm_ffi.get_global_func("device_api.cuda", allow_missing=True) is None:
        load_cudart()
        load_tvm_cuda(folder)


def load_cudart() -> None:
    """Load the CUDA runtime library, from Python packages, a toolkit, or wherever the system finds it."""
    name = f"libcudart.so.{_RUNTIME}"
    for path in (*_packaged(name), name, f"/usr/local/cuda/lib64/{name}"):
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue
    raise TargetError(
        f"{name} was not found: pip install 'graphprune[cuda]', or nvidia-cuda-runtime alone to run artifacts"
    )


def load_tvm_cuda(folder: Path) -> None:
    """Load TVM's CUDA runtime, which registers itself."""
    try:
        ctypes.CDLL(str(folder / "libtvm_runtime_cuda.so"), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TargetError(f"TVM's CUDA runtime does not load: {error}") from error


def _packaged(name: str) -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    return [path for root in roots for path in sorted(root.glob(f"*/lib/{name}"))]


def on_gpu(tensor: Any) -> bool:
    """Whether a tensor lies in the memory of a GPU."""
    return bool(tensor.device.dlpack_device_type() == CUDA)


@contextlib.contextmanager
def turn(tensors: Sequence[Any]) -> Iterator[None]:
    """A context in which kernels run on torch's current stream, where tensors come from torch on the GPU.

    All calls of a process take turns, and a stream is waited for: memory of intermediate results goes back into a pool
    before the kernels that use it have run, and the next call may come on another stream.
    """
    torch = sys.modules.get("torch")
    with _TURNS:
        if torch is None or not any(map(on_gpu, tensors)) or not torch.cuda.is_available():
            yield
            return
        stream = torch.cuda.current_stream(0)
        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", 0), stream.cuda_stream):
            yield
        stream.synchronize()


def uploaded(tensor: tvm_ffi.Tensor) -> tvm_ffi.Tensor:
    """The tensor on the first GPU: itself, or a copy."""
    return tensor if on_gpu(tensor) else _copied(tensor, CUDA)


def downloaded(tensor: tvm_ffi.Tensor) -> tvm_ffi.Tensor:
    """The tensor in the memory of the processor, complete when this returns."""
    return _copied(tensor, CPU)


def _copied(tensor: tvm_ffi.Tensor, kind: int) -> tvm_ffi.Tensor:
    device = tvm_ffi.device("cuda" if kind == CUDA else "cpu", 0)
    allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    result = allocate(tvm_ffi.Shape([int(extent) for extent in tensor.shape]), tensor.dtype, device, None)
    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(tensor, result)
    if kind == CPU:
        tvm_ffi.get_global_func("runtime.Device_StreamSync")(tensor.device, 0)
    return result
