"""Builds a candidate as a kernel of its own and measures it, in turn with another one."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import te, tirx

from . import convolution, matmul, sparse, window, winograd
from .choices import Candidate
from .dots import QUAD
from .precision import HALVES
from .record import Measured
from .runtime import use_threads
from .schedules import Rule
from .targets import Target

# Seconds of calls per measurement; calls at least and in a row; the share of calls that were faster than what counts.
_SECONDS, _LEAST, _IN_A_ROW, _SHARE = 0.25, 12, 3, 0.1
# In a model each layer finds its weights where the layers between left them: copies so many and of so many bytes at
# most take turns.
_COPIES, _BYTES = 64, 64 << 20


@dataclass(frozen=True)
class Operands:
    """The placeholders of a kernel and its result; the weights are number `weight`, if there are any."""

    tensors: list[te.Tensor]
    result: te.Tensor
    weight: int | None


def operands(candidate: Candidate) -> Operands:
    """The template of a candidate with a bias and an activation behind it, as in most models."""
    tensors, result, weight = _KERNELS[type(candidate)][0](candidate)
    if weight is None or len(result.shape) == 4:  # what vectors of pixels give is converted before it is read
        return Operands(tensors, result, weight)
    size = (result.shape[-1],) if len(result.shape) == 2 else (1, result.shape[1], 1, 1, result.shape[-1])
    bias = te.placeholder(size, result.dtype, name="bias")

    def activated(*index: Any) -> Any:
        place = index[-1:] if len(index) == 2 else (0, index[1], 0, 0, index[-1])
        return tirx.max(result(*index) + bias(*place), tirx.const(0, result.dtype))

    return Operands([*tensors, bias], te.compute(result.shape, activated, name="activated"), weight)


def _convolution(numbers: convolution.Convolution) -> tuple:
    image = (numbers.batch, numbers.blocks_in, numbers.height, numbers.width)
    data = te.placeholder(
        image if numbers.lanes_in == 1 else (*image, numbers.lanes_in * numbers.parts), numbers.data, name="data"
    )
    inner = (numbers.lanes_in // QUAD, numbers.lanes, QUAD) if numbers.integers else (numbers.lanes_in, numbers.lanes)
    size = (numbers.blocks, numbers.reach, *numbers.kernel, *inner)
    weight = te.placeholder(size, numbers.weights, name="weight")
    first = [te.placeholder((numbers.blocks_out,), "int32", name="first")] if numbers.reads_table else []
    return [data, weight, *first], convolution.compute(numbers, data, weight, *(first or [None])), 1


def _winograd(numbers: winograd.Winograd) -> tuple:
    data = te.placeholder((numbers.batch, numbers.blocks_in, numbers.height, numbers.width, numbers.lanes), name="data")
    deep, lanes, span = numbers.plan.deep, numbers.lanes, numbers.span
    size = (-(-numbers.blocks_out // deep), span, span, numbers.blocks_in, lanes, deep, lanes)
    weight = te.placeholder(size, name="weight")
    return [data, weight], winograd.compute(numbers, data, weight), 1


def _window(numbers: window.Window) -> tuple:
    data = te.placeholder(numbers.size, numbers.data, name="data")
    if numbers.kind != "depthwise":
        return [data], window.compute(numbers, data), None
    weight = te.placeholder((numbers.size[1], *numbers.kernel, numbers.size[4]), numbers.weights, name="weight")
    return [data, weight], window.compute(numbers, data, weight), 1


def _matmul(numbers: matmul.MatMul) -> tuple:
    data = te.placeholder((numbers.rows, numbers.inner), numbers.data, name="data")
    inner = (numbers.inner // QUAD, numbers.lanes, QUAD) if numbers.integers else (numbers.inner, numbers.lanes)
    weight = te.placeholder((numbers.blocks, *inner), numbers.weights, name="weight")
    return [data, weight], matmul.compute(numbers, data, weight, (numbers.rows, numbers.columns), True), 1


def _sparse(numbers: sparse.Sparse) -> tuple:
    data = te.placeholder((numbers.batch, numbers.size), name="data")
    tiles = numbers.kind == "tiles"
    size = (numbers.entries, numbers.lanes) if tiles else (numbers.entries,)
    weight = te.placeholder(size, numbers.weights, name="weight")
    table = te.placeholder((numbers.lists + 1 + numbers.entries,), "int32", name="table")
    image = (numbers.batch, numbers.lists, numbers.rows, numbers.columns, numbers.lanes)
    out = image if tiles else (numbers.batch, numbers.lists, 1, numbers.spanned)
    return [data, weight, table], sparse.compute(numbers, data, weight, table, out), 1


# For every kind of numbers: operands and result, and the rule that schedules them.
_KERNELS: dict[type, tuple[Callable[[Any], tuple], Rule]] = {
    convolution.Convolution: (_convolution, convolution.schedule),
    winograd.Winograd: (_winograd, winograd.schedule),
    window.Window: (_window, window.schedule),
    matmul.MatMul: (_matmul, matmul.schedule),
    sparse.Sparse: (_sparse, sparse.schedule),
}


class Meter:
    """Measures candidates for a target on so many threads.

    The number of threads is a matter of the calling thread, so calls come from a thread of its own.
    """

    def __init__(self, target: Target, threads: int) -> None:
        self.target, self.threads = target, threads
        # Processor time does not see what else the machine does, but counts only one thread.
        self._clock = time.thread_time if threads == 1 else time.perf_counter
        self._built: tuple[Candidate | None, Callable[[], None]] = (None, lambda: None)
        self._worker = ThreadPoolExecutor(1)
        self._worker.submit(use_threads, threads).result()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.shutdown()

    def __call__(self, first: Candidate, candidate: Candidate) -> Measured:
        """The time of a candidate beside that of the most promising one."""
        try:
            if self._built[0] != first:
                self._built = (first, self._build(first))
            call = self._build(candidate)
        except Exception:
            # Whatever a compiler says against a candidate, there are others.
            return Measured(None, None)
        seconds, reference = self._worker.submit(self._alternate, call, self._built[1]).result()
        return Measured(seconds, reference)

    def seconds(self, candidate: Candidate) -> float:
        """The time of a candidate alone."""
        return float(self._worker.submit(self._alternate, self._build(candidate)).result()[0])

    def _build(self, candidate: Candidate) -> Callable[[], None]:
        """A function that calls the kernel, each time with other weights."""
        from .pipeline import llvm_target

        parts = operands(candidate)
        function = te.create_prim_func([*parts.tensors, parts.result], index_dtype_override="int64")
        schedule = _KERNELS[type(candidate)][1](function, self.target)
        library = tvm.compile(schedule.mod, target=llvm_target(self.target)).jit()
        arrays = [_values(tensor, candidate) for tensor in (*parts.tensors, parts.result)]
        sets = [[tvm.runtime.tensor(array) for array in arrays]]
        if parts.weight is not None:
            weight = arrays[parts.weight]
            for _ in range(min(_COPIES, _BYTES // weight.nbytes)):
                sets.append([*sets[0][: parts.weight], tvm.runtime.tensor(weight), *sets[0][parts.weight + 1 :]])
        turns, kernel = cycle(sets), library["main"]
        return lambda: kernel(*next(turns))

    def _alternate(self, *calls: Callable[[], None]) -> list[float]:
        """Seconds of each call; they take turns, so that a slow moment of the machine hits all."""
        seconds: list[list[float]] = [[] for _ in calls]
        end = time.perf_counter() + _SECONDS
        while len(seconds[0]) < _LEAST or time.perf_counter() < end:
            for call, found in zip(calls, seconds, strict=True):
                for _ in range(_IN_A_ROW):
                    start = self._clock()
                    call()
                    found.append(self._clock() - start)
        return [max(sorted(found)[int(len(found) * _SHARE)], 1e-9) for found in seconds]


def _values(tensor: te.Tensor, candidate: Any) -> np.ndarray:
    """Something to compute with."""
    shape = tuple(int(extent) for extent in tensor.shape)
    if tensor.name == "first":
        # The first input block that each output block of a grouped convolution reads.
        return np.linspace(0, candidate.blocks_in - candidate.reach, *shape).astype("int32")
    if tensor.name == "table":
        return candidate.some_table()
    if tensor.dtype in ("uint8", "int8", "int32"):
        return np.resize(np.random.default_rng(0).integers(0, 100, 1 << 12), shape).astype(str(tensor.dtype))
    numbers = np.random.default_rng(0).standard_normal(1 << 12).astype("float32")
    half = next((half for half in HALVES.values() if half.storage == tensor.dtype), None)
    return np.resize(half.narrow(numbers) if half else numbers, shape)


def bytes_of(candidate: Candidate) -> int:
    """Bytes of all operands and the result."""
    parts = operands(candidate)
    tensors = (*parts.tensors, parts.result)
    return sum(np.dtype(str(tensor.dtype)).itemsize * prod(int(n) for n in tensor.shape) for tensor in tensors)
