"""Softmax and its logarithm along an axis that is not contiguous: vectors run across it, sums along it.

The tensor is `(outer, length, inner)`. A kernel does all steps for some neighbouring columns at a time, which stay in
the cache.
"""

from tvm import s_tir, te, tirx

from .elementary import log
from .fastmath import exp_below_zero
from .targets import Target
from .tiling import blocks_of, extent, find, inline_epilogue, keep_beside, vectorize

_COLUMNS = "graphprune.columns"
_MARK = {_COLUMNS: [1]}
_REDUCTION = 2
# Columns that are computed together; whole lines of the cache.
_TOGETHER = (64, 48, 32, 16)


def softmax(data: te.Tensor) -> te.Tensor:
    """Softmax over the middle axis."""
    highest = _highest(data)
    powers = te.compute(data.shape, lambda a, k, b: exp_below_zero(data(a, k, b) - highest(a, b)), name="powers")
    total = _total(data, lambda a, k, b: powers(a, k, b))
    inverse = te.compute(total.shape, lambda a, b: tirx.const(1, "float32") / total(a, b), name="inverse")
    return te.compute(data.shape, lambda a, k, b: powers(a, k, b) * inverse(a, b), name="softmax", attrs=_MARK)


def log_softmax(data: te.Tensor) -> te.Tensor:
    """The logarithm of the softmax over the middle axis."""
    highest = _highest(data)
    total = _total(data, lambda a, k, b: exp_below_zero(data(a, k, b) - highest(a, b)))
    shift = te.compute(total.shape, lambda a, b: log(total(a, b)), name="shift")
    return te.compute(
        data.shape, lambda a, k, b: data(a, k, b) - highest(a, b) - shift(a, b), name="log_softmax", attrs=_MARK
    )


def _highest(data: te.Tensor) -> te.Tensor:
    outer, length, inner = data.shape
    k = te.reduce_axis((0, length), "k")
    return te.compute((outer, inner), lambda a, b: te.max(data(a, k, b), axis=[k]), name="highest")


def _total(data: te.Tensor, value) -> te.Tensor:
    outer, length, inner = data.shape
    k = te.reduce_axis((0, length), "k")
    return te.compute((outer, inner), lambda a, b: te.sum(value(a, k, b), axis=[k]), name="total")


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains one of the templates and whatever was fused behind it."""
    sch = s_tir.Schedule(function)
    last = find(sch, _COLUMNS)
    if last is None:
        return None
    result = inline_epilogue(sch, last)
    stages = blocks_of(sch)[:-1]
    outer, length, inner = sch.get_loops(result)
    size = extent(sch, inner)
    together = next((count for count in _TOGETHER if size % count == 0), size)
    piece, column = sch.split(inner, [None, together])
    sch.reorder(outer, piece, length, column)
    work = sch.fuse(outer, piece)
    sch.parallel(work)
    keep_beside(sch, stages, work)
    for block in (*stages, result):
        _schedule_stage(sch, block, target)
    return sch


def _schedule_stage(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, target: Target) -> None:
    """Columns innermost, in vectors; ragged ones are plain loops, which the code generator vectorises."""
    loops = sch.get_loops(block)
    reduces = any(int(var.iter_type) == _REDUCTION for var in sch.get(block).iter_vars)
    column, k = (loops[-2], loops[-1]) if reduces else (loops[-1], None)
    if k is not None:
        sch.reorder(k, column)
    if extent(sch, column) % target.vector_width == 0:
        vectorize(sch, sch.split(column, [None, target.vector_width])[1])
    if k is not None:
        sch.decompose_reduction(block, k)
