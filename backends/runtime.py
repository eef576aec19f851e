"""The small runtime: loads a compiled library with `tvm_ffi` and `libtvm_runtime`, without the `tvm` package."""

import ctypes
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import FileFormatError, InputError, TargetError
from . import gpu
from .container import ALIGNMENT, Buffer
from .large_pages import WORTH, use_large_pages
from .processors import default_threads, processors
from .weights import aligned_room, arrays

_CPU, _POOLED = 1, 2
# The mode of the runtime's pool in which workers may move between all processors that they are given.
_SHARE_PROCESSORS = -3
# How often a worker looks for work before it sleeps, unless the environment says otherwise: about a millisecond. The
# runtime's own number keeps a processor busy for fifty after every call.
_LOOKS = "TVM_THREAD_POOL_SPIN_COUNT", "6000"
# How many workers the pool of a thread uses.
_pool = threading.local()


@cache
def load_runtime_library() -> ctypes.CDLL:
    """Load `libtvm_runtime` once per process; the `tvm` package, imported before or after, shares it."""
    os.environ.setdefault(*_LOOKS)
    path = runtime_library()
    try:
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TargetError(f"the runtime library does not load on this machine: {error}") from error


def runtime_library() -> Path:
    """Where `libtvm_runtime.so` lies.

    In the folder that `GRAPHPRUNE_RUNTIME` names, or in its `lib`; otherwise in the package `tvm`, or in the folder
    that `graphprune runtime` made and that this file lies in. Raises `TargetError` where it is not there.
    """
    names, named = ("libtvm_runtime.so", "libtvm_runtime.dylib"), os.environ.get("GRAPHPRUNE_RUNTIME")
    if named:
        folders = [Path(named), Path(named) / "lib"]
        advice = f"GRAPHPRUNE_RUNTIME names {named}, which does not hold it"
    else:
        spec = importlib.util.find_spec("tvm")
        folders = [Path(place) / "lib" for place in (spec.submodule_search_locations or () if spec else ())]
        folders.append(Path(__file__).parents[3] / "lib")
        advice = "install apache-tvm, or let GRAPHPRUNE_RUNTIME name a folder that `graphprune runtime FOLDER` made"
    for path in (folder / name for folder in folders for name in names):
        if path.is_file():
            return path
    raise TargetError(f"{names[0]} was not found: {advice}")


class Program:
    """A loaded library: call it with aligned tensors, get a list of tensors.

    A virtual machine runs one call at a time, so there are as many of them as calls at the same time; they share code
    and weights. `weights` is the table of separate weights (see `weights.py`), `data` the bytes that it describes.
    """

    def __init__(
        self,
        library: bytes,
        threads: int | None = None,
        weights: Mapping[str, Any] | None = None,
        data: Buffer | None = None,
        device: str = "",
    ) -> None:
        load_runtime_library()
        self.on_gpu = bool(device)
        if self.on_gpu:
            gpu.load_cuda_runtime(runtime_library().parent)
        self.threads = threads
        self._workers = threads or default_threads()
        self._executable = _load(library)
        self._weights = _arguments(weights, data) if weights is not None and data is not None else {}
        self._watching = threading.local()
        # Functions whose weights are known to lie in large pages, or None where that is not worth it. Weights that are
        # mapped from a file stay where all processes share them.
        self._settled: set[str] | None = None if self.on_gpu or len(library) < WORTH else set()
        # Machines that wait for work; appending to a list and popping from it are atomic.
        self._free = [self._start()]

    def __call__(self, tensors: list[tvm_ffi.Tensor], name: str = "main") -> list[tvm_ffi.Tensor]:
        """Run the function of this name.

        On a GPU, the results stay there if one of the tensors was there, and come back otherwise.
        """
        if not self.on_gpu:
            return self._run(tensors, name)
        with gpu.turn(tensors):
            results = self._run([gpu.uploaded(tensor) for tensor in tensors], name)
            return results if any(map(gpu.on_gpu, tensors)) else [gpu.downloaded(result) for result in results]

    def _run(self, tensors: list[tvm_ffi.Tensor], name: str) -> list[tvm_ffi.Tensor]:
        use_threads(self._workers)
        if self._settled is not None and name not in self._settled and self._watcher is None:
            self._settled.add(name)
            return self._settle(tensors, name)
        with self._machine() as machine:
            return self._call(machine, tensors, name)

    def _call(self, machine: "_Machine", tensors: list[tvm_ffi.Tensor], name: str) -> list[tvm_ffi.Tensor]:
        result = machine[name](*tensors, *self._weights.get(name, ()))
        return [result] if isinstance(result, tvm_ffi.Tensor) else list(result)

    def _settle(self, tensors: list[tvm_ffi.Tensor], name: str) -> list[tvm_ffi.Tensor]:
        """Run a function as any other time; what its kernels were given, but for the inputs, comes into large pages."""
        seen: dict[int, int] = {}

        def note(function: Any, kernel: str, before: bool, result: Any, *arguments: Any) -> int:
            for tensor in arguments:
                if isinstance(tensor, tvm_ffi.Tensor):
                    place, size = tensor.data_ptr(), tensor.numel() * tensor.dtype.itemsize
                    seen[place] = max(size, seen.get(place, 0))  # memory of results is used again
            return 0  # go on

        results = self._call(self._start(note), tensors, name)
        given = {tensor.data_ptr() for tensor in tensors}
        use_large_pages((start, start + size) for start, size in seen.items() if start not in given)
        return results

    @contextmanager
    def watched(self, watch: Callable[[str, bool], None]) -> "Iterator[None]":
        """While this is open, `watch(name, before)` is called before and after all that this thread's calls do."""

        def instrument(function: Any, name: str, before: bool, *rest: Any) -> int:
            watch(name, before)
            return 0  # go on

        self._watching.machine = self._start(instrument)
        try:
            yield
        finally:
            self._watching.machine = None

    @property
    def _watcher(self) -> "_Machine | None":
        """The machine that tells what this thread's calls do."""
        return getattr(self._watching, "machine", None)

    @contextmanager
    def _machine(self) -> "Iterator[_Machine]":
        """A machine that nobody else uses meanwhile."""
        if self._watcher is not None:
            yield self._watcher
            return
        try:
            machine = self._free.pop()
        except IndexError:
            machine = self._start()
        try:
            yield machine
        finally:
            self._free.append(machine)

    def _start(self, instrument: Callable[..., int] | None = None) -> "_Machine":
        """A machine, which calls `instrument` before and after all that it does."""
        machine = self._executable["vm_load_executable"]()
        first = (gpu.CUDA, 0, _POOLED) if self.on_gpu else ()
        machine["vm_initialization"](*first, _CPU, 0, _POOLED)
        if instrument is not None:
            machine["set_instrument"](tvm_ffi.convert(instrument))
        return _Machine(machine)


class _Machine(dict[str, Any]):
    """The functions of a virtual machine by name, looked up once."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __missing__(self, name: str) -> Any:
        self[name] = function = self._module[name]
        return function


def _arguments(table: Mapping[str, Any], data: Buffer) -> dict[str, list[tvm_ffi.Tensor]]:
    """What each function takes after its inputs."""
    tensors = [tvm_ffi.from_dlpack(array) for array in arrays(table, data)]
    return {name: [tensors[index] for index in indices] for name, indices in table["functions"].items()}


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
            # The library is unloaded with its last user: programs may be replaced for as long as a process lives.
            return tvm_ffi.load_module(path, keep_module_alive=False)
        except (OSError, RuntimeError) as error:
            raise FileFormatError(
                f"the compiled library does not load on this machine: {error} (it passes through the folder for "
                f"temporary files, {tempfile.gettempdir()}, which must allow code to be loaded; TMPDIR names another)"
            ) from error


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
    if array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable:
        return array
    copy = aligned_room(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
