"""The small runtime: loads a compiled library with `tvm_ffi` and `libtvm_runtime`, without the `tvm` package."""

import ctypes
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import FileFormatError, InputError, TargetError
from . import gpu
from .processors import default_threads, processors

# Compiled code loads whole vectors and assumes that tensors begin at such an address.
_ALIGNMENT = 64
_CPU, _POOLED = 1, 2
# The mode of the runtime's pool in which workers may move between all processors that they are given.
_SHARE_PROCESSORS = -3
# How many workers the pool of a thread uses.
_pool = threading.local()


@cache
def load_runtime_library() -> ctypes.CDLL:
    """Load `libtvm_runtime` once per process; the `tvm` package, imported before or after, shares it."""
    spec = importlib.util.find_spec("tvm")
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "lib" / "libtvm_runtime.so"
        if path.exists():
            return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    raise TargetError("libtvm_runtime.so was not found: install the package apache-tvm")


class Program:
    """A loaded library: call it with aligned tensors, get a list of tensors."""

    def __init__(self, library: bytes, threads: int | None = None, device: str = "") -> None:
        runtime = load_runtime_library()
        self.on_gpu = bool(device)
        if self.on_gpu:
            gpu.load_cuda_runtime(Path(runtime._name).parent)
        self._lock = threading.Lock()
        self.threads = threads
        self._workers = threads or default_threads()
        self._module = _load(library)
        self._machine = self._module["vm_load_executable"]()
        first = (gpu.CUDA, 0, _POOLED) if self.on_gpu else ()
        self._machine["vm_initialization"](*first, _CPU, 0, _POOLED)
        self._functions: dict[str, Any] = {}

    def __call__(self, tensors: list[tvm_ffi.Tensor], name: str = "main") -> list[tvm_ffi.Tensor]:
        """Run the function of this name. Calls from several threads take turns.

        On a GPU, the results stay there if one of the tensors was there, and come back otherwise.
        """
        if self.on_gpu:
            with gpu.torch_stream(tensors):
                results = self._run([gpu.uploaded(tensor) for tensor in tensors], name)
            return results if any(map(gpu.on_gpu, tensors)) else [gpu.downloaded(result) for result in results]
        return self._run(tensors, name)

    def _run(self, tensors: list[tvm_ffi.Tensor], name: str) -> list[tvm_ffi.Tensor]:
        with self._lock:
            use_threads(self._workers)
            if name not in self._functions:
                self._functions[name] = self._machine[name]
            result = self._functions[name](*tensors)
        return [result] if isinstance(result, tvm_ffi.Tensor) else list(result)

    @contextmanager
    def watched(self, watch: Callable[[str, bool], None]) -> "Iterator[None]":
        """While this is open, `watch(name, before)` is called before and after everything that the program calls."""

        def instrument(function: Any, name: str, before: bool, *rest: Any) -> int:
            watch(name, before)
            return 0  # go on

        self._machine["set_instrument"](tvm_ffi.convert(instrument))
        try:
            yield
        finally:
            self._machine["set_instrument"](None)


def use_threads(count: int) -> None:
    """Compiled code that the calling thread runs from now on uses so many threads, itself included.

    Left alone, the runtime takes half of the processors at most, and binds the calling thread, with all that it starts
    afterwards, to the first of them.
    """
    if getattr(_pool, "threads", None) == count:
        return
    load_runtime_library()
    allowed = processors()
    # A pool never grows, and this thread may want more later.
    most = max(count, len(allowed))
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    configure(_SHARE_PROCESSORS, count, [str(number) for number in allowed], most)
    _pool.threads = count


def _load(library: bytes) -> Any:
    """Load a library from memory: through a private file that is gone before this returns."""
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        path = os.path.join(folder, "library.so")
        with open(path, "wb") as file:
            file.write(library)
        try:
            return tvm_ffi.load_module(path)
        except (OSError, RuntimeError) as error:
            raise FileFormatError(f"the compiled library does not load on this machine: {error}") from error


def to_tensor(value: Any, name: str, for_gpu: bool = False) -> tuple[tvm_ffi.Tensor, Any]:
    """A numpy array, torch tensor or any other DLPack tensor as the runtime wants it, contiguous and aligned.

    Returns the tensor and the object that owns its memory. Tensors on a GPU are taken `for_gpu` alone. Raises
    `InputError` for anything else.
    """
    if isinstance(value, np.ndarray):
        owner = _aligned(value)
        return tvm_ffi.from_dlpack(owner), owner
    if hasattr(value, "detach"):
        value = value.detach().contiguous()
    if not hasattr(value, "__dlpack__"):
        raise InputError(f"input {name!r} must be a tensor (numpy, torch or DLPack), not {type(value).__name__}")
    try:
        tensor = tvm_ffi.from_dlpack(value)
        if for_gpu and gpu.on_gpu(tensor):
            if tensor.device.index:
                raise InputError(f"input {name!r} is on {tensor.device}; artifacts run on the first GPU, cuda:0")
            return tensor, value
        if tensor.device.dlpack_device_type() != _CPU:
            raise InputError(f"input {name!r} is on {tensor.device}; move it to the CPU first")
        array = np.from_dlpack(tensor)
    except (BufferError, TypeError, RuntimeError, ValueError) as error:
        raise InputError(f"input {name!r} cannot be read through DLPack: {error}") from error
    owner = _aligned(array)
    return (tensor, value) if owner is array else (tvm_ffi.from_dlpack(owner), owner)


def _aligned(array: np.ndarray) -> np.ndarray:
    """The same numbers, contiguous, writeable (DLPack insists) and at an aligned address; copied if need be."""
    if array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable:
        return array
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
