"""What this machine does at most, measured once: multiply-adds in registers, bytes copied through the caches.

Figures are kept in `graphprune/peak.json` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`), by
processor, target and number of threads; deleting the file measures again.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..files import atomic_path
from .host import processor
from .prediction import Peak
from .processors import default_threads
from .targets import Target, get_target

# Sizes of the two kernels: operands that stay in the first cache, and a copy that does not.
_DEPTH, _PIECES = 256, 1024
# Sums are two vectors wide: with one, some processors wait for what is loaded.
_VECTORS = 2
_COPIED = 1 << 20
_SECONDS = 0.2


def peak(target: "str | Target", threads: int | None = None) -> Peak:
    """The peak of this machine on `threads` threads (None: all cores); measured in a second where it is not known."""
    chosen, count = get_target(target), threads or default_threads()
    key = f"{processor()}, {chosen.name}, {count}"
    path = cache_folder() / "peak.json"
    known = _read(path)
    if key not in known:
        # The measurement sets the number of threads, which the runtime keeps per calling thread: use a new one.
        with ThreadPoolExecutor(1) as worker:
            found = worker.submit(_measure, chosen, count).result()
        known = _read(path) | {key: list(found)}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    return Peak(*known[key])


def cache_folder() -> Path:
    """Where GraphPrune keeps what it measured on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphprune"


def _read(path: Path) -> dict[str, Any]:
    """What is known; nothing where the file is absent or damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _measure(target: Target, threads: int) -> Peak:
    """Run both kernels on this many threads; the fastest of several runs counts."""
    import numpy as np
    import tvm

    from .pipeline import llvm_target
    from .runtime import use_threads

    lanes, rows = target.vector_width, max(target.accumulators, target.tall) // _VECTORS
    module = tvm.IRModule({"sums": _sums(rows, lanes), "copy": _copy(lanes)})
    library = tvm.compile(module, target=llvm_target(target)).jit()
    use_threads(threads)

    def tensor(*shape: int) -> Any:
        return tvm.runtime.tensor(np.ones(shape, np.float32))

    operands = (tensor(_DEPTH, rows), tensor(_DEPTH, _VECTORS, lanes), tensor(_PIECES, rows, _VECTORS, lanes))
    copied = (tensor(_COPIED // lanes, lanes), tensor(_COPIED // lanes, lanes))
    macs = _PIECES * rows * _VECTORS * _DEPTH * lanes / _fastest(library["sums"], operands)
    return Peak(macs, 8 * _COPIED / _fastest(library["copy"], copied))


def _fastest(function: Any, arguments: tuple[Any, ...]) -> float:
    """The least seconds of a call, of as many as fit into a moment."""
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _sums(rows: int, lanes: int) -> Any:
    """Products of a small matrix, again and again: as many sums as there are registers for, which never leave them."""
    from tvm import s_tir, te

    from .tiling import accumulate, unroll, vectorize

    left, right = te.placeholder((_DEPTH, rows), name="left"), te.placeholder((_DEPTH, _VECTORS, lanes), name="right")
    k = te.reduce_axis((0, _DEPTH), "k")
    size = (_PIECES, rows, _VECTORS, lanes)
    sums = te.compute(size, lambda p, j, v, lane: te.sum(left[k, j] * right[k, v, lane], axis=[k]), name="sums")
    schedule = s_tir.Schedule(te.create_prim_func([left, right, sums]))
    block = schedule.get_sblock("sums")
    registers = schedule.cache_write(block, 0, "local")
    piece = schedule.get_loops(block)[0]
    schedule.parallel(piece)
    schedule.reverse_compute_at(registers, piece)
    _, *tile, lane = schedule.get_loops(registers)
    unroll(schedule, *tile)
    vectorize(schedule, lane)
    accumulate(schedule, block, outer=1, spatial=3, unrolled=0)
    return schedule.mod["main"].with_attr("global_symbol", "sums")


def _copy(lanes: int) -> Any:
    """A copy from one place to another."""
    from tvm import s_tir, te

    data = te.placeholder((_COPIED // lanes, lanes), name="data")
    schedule = s_tir.Schedule(te.create_prim_func([data, te.compute(data.shape, lambda i, j: data[i, j], name="copy")]))
    rows, lane = schedule.get_loops(schedule.get_sblock("copy"))
    schedule.parallel(schedule.split(rows, [64, None])[0])
    schedule.vectorize(lane)
    return schedule.mod["main"].with_attr("global_symbol", "copy")
