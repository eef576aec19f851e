"""Softmax and norms: statistics of a row, then one step per element. Rows run in parallel.

Sums and maxima over a row are taken lane by lane first. Sums over ragged rows are plain loops, which the code
generator vectorises; it may not reorder a maximum.
"""

from collections.abc import Callable

from tvm import s_tir, te, tirx

from .elementary import log
from .fastmath import exp_below_zero
from .targets import Target
from .tiling import annotation_of, blocks_of, extent, find, inline_epilogue, keep_beside, vectorize

_ROWS = "graphprune.rows"
_LANES = "graphprune.lanes"
_REDUCTION = 2


def softmax(data: te.Tensor, lanes: int) -> te.Tensor:
    """Softmax over the last axis of `(*lead, length)`."""
    *lead, length = (int(size) for size in data.shape)
    highest = _maximum(data, lead, length, lanes)
    powers = te.compute((*lead, length), lambda *i: exp_below_zero(data(*i) - highest(*i[:-1])), name="powers")
    total = _sum(powers, lead, length, lanes, "total")
    inverse = te.compute(lead, lambda *i: tirx.const(1, data.dtype) / total(*i), name="inverse")
    return te.compute(
        (*lead, length), lambda *i: powers(*i) * inverse(*i[:-1]), name="softmax", attrs={_ROWS: [len(lead)]}
    )


def log_softmax(data: te.Tensor, lanes: int) -> te.Tensor:
    """The logarithm of the softmax over the last axis of `(*lead, length)`."""
    *lead, length = (int(size) for size in data.shape)
    highest = _maximum(data, lead, length, lanes)
    powers = te.compute((*lead, length), lambda *i: exp_below_zero(data(*i) - highest(*i[:-1])), name="powers")
    total = _sum(powers, lead, length, lanes, "total")
    shift = te.compute(lead, lambda *i: log(total(*i)), name="shift")
    return te.compute(
        (*lead, length),
        lambda *i: data(*i) - highest(*i[:-1]) - shift(*i[:-1]),
        name="log_softmax",
        attrs={_ROWS: [len(lead)]},
    )


def _maximum(data: te.Tensor, lead: list[int], length: int, lanes: int) -> te.Tensor:
    """The greatest number of each row: first per lane, then over the lanes and what is left of the row."""
    whole, rest = divmod(length, lanes)
    if whole == 0:
        k = te.reduce_axis((0, length), "k")
        return te.compute(lead, lambda *i: te.max(data(*i, k), axis=[k]), name="highest")
    k = te.reduce_axis((0, whole), "k")
    per_lane = te.compute(
        (*lead, lanes), lambda *i: te.max(data(*i[:-1], k * lanes + i[-1]), axis=[k]), name="lanes", attrs={_LANES: [1]}
    )
    r = te.reduce_axis((0, lanes + rest), "r")

    def last(*i):
        tail = data(*i, whole * lanes + tirx.max(r - lanes, 0))
        return tirx.if_then_else(r < lanes, per_lane(*i, tirx.min(r, lanes - 1)), tail) if rest else per_lane(*i, r)

    return te.compute(lead, lambda *i: te.max(last(*i), axis=[r]), name="highest")


def _sum(value: Callable[..., tirx.Expr], lead: list[int], length: int, lanes: int, name: str) -> te.Tensor:
    """The sum of each row: lane by lane where vectors fill it, and then over the lanes in a tree."""
    if length % lanes:
        k = te.reduce_axis((0, length), "k")
        return te.compute(lead, lambda *i: te.sum(value(*i, k), axis=[k]), name=name)
    k = te.reduce_axis((0, length // lanes), "k")
    per_lane = te.compute(
        (*lead, lanes),
        lambda *i: te.sum(value(*i[:-1], k * lanes + i[-1]), axis=[k]),
        name=f"{name}_lanes",
        attrs={_LANES: [1]},
    )

    def over_lanes(*i):
        parts = [per_lane(*i, lane) for lane in range(lanes)]
        while len(parts) > 1:
            parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return te.compute(lead, over_lanes, name=name)


def layer_norm(data: te.Tensor, scale: te.Tensor, shift: te.Tensor, epsilon: float, lanes: int) -> te.Tensor:
    """Normalise the last axis of `(*lead, length)` to mean 0 and variance 1, then scale and shift."""
    *lead, length = (int(size) for size in data.shape)
    share = tirx.const(1.0 / length, data.dtype)
    total = _sum(data, lead, length, lanes, "total")
    mean = te.compute(lead, lambda *i: total(*i) * share, name="mean")
    # The variance comes from the differences: subtracting two large sums would lose the digits that matter.
    centred = te.compute((*lead, length), lambda *i: data(*i) - mean(*i[:-1]), name="centred")
    squares = _sum(lambda *i: centred(*i) * centred(*i), lead, length, lanes, "squares")
    inverse = te.compute(
        lead, lambda *i: te.rsqrt(squares(*i) * share + tirx.const(epsilon, data.dtype)), name="inverse"
    )
    return te.compute(
        (*lead, length),
        lambda *i: centred(*i) * inverse(*i[:-1]) * scale[i[-1]] + shift[i[-1]],
        name="layer_norm",
        attrs={_ROWS: [len(lead)]},
    )


def rms_norm(data: te.Tensor, scale: te.Tensor, epsilon: float, lanes: int) -> te.Tensor:
    """Divide the last axis of `(*lead, length)` by the root of its mean square, then scale."""
    *lead, length = (int(size) for size in data.shape)
    share = tirx.const(1.0 / length, data.dtype)
    squares = _sum(lambda *i: data(*i) * data(*i), lead, length, lanes, "squares")
    inverse = te.compute(
        lead, lambda *i: te.rsqrt(squares(*i) * share + tirx.const(epsilon, data.dtype)), name="inverse"
    )
    return te.compute(
        (*lead, length),
        lambda *i: data(*i) * inverse(*i[:-1]) * scale[i[-1]],
        name="rms_norm",
        attrs={_ROWS: [len(lead)]},
    )


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains one of the templates and whatever was fused behind it."""
    sch = s_tir.Schedule(function)
    last = find(sch, _ROWS)
    if last is None:
        return None
    (lead,) = annotation_of(sch, last, _ROWS)
    result = inline_epilogue(sch, last)
    stages = blocks_of(sch)[:-1]
    row = sch.fuse(*sch.get_loops(result)[:lead]) if lead else sch.add_unit_loop(result)
    sch.parallel(row)
    keep_beside(sch, stages, row)
    for block in (*stages, result):
        _schedule_stage(sch, block, target)
    return sch


def _schedule_stage(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, target: Target) -> None:
    """Lanes are vectorised by us; sums and ragged rows are left as loops the code generator vectorises."""
    loops = sch.get_loops(block)[1:]
    reduces = any(int(var.iter_type) == _REDUCTION for var in sch.get(block).iter_vars)
    if reduces:
        *_, inner, k = loops if len(loops) > 1 else (None, *loops)
        if _LANES in sch.get(block).annotations:
            sch.reorder(k, inner)
            vectorize(sch, inner)
            vectorize(sch, sch.get_loops(sch.decompose_reduction(block, k))[-1])
        else:
            sch.decompose_reduction(block, k)
    elif loops and extent(sch, loops[-1]) % target.vector_width == 0:
        vectorize(sch, sch.split(loops[-1], [None, target.vector_width])[1])
