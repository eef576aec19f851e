"""Softmax and norms: statistics of a row, then one step per element. Rows run in parallel.

Sums and maxima over a row are taken lane by lane first. A row that does not fill its last vector is copied and filled
up with what changes nothing: every stage but the first and the last has whole vectors.
"""

from collections.abc import Callable
from operator import add

from tvm import s_tir, te, tirx

from .elementary import log
from .fastmath import exp_below_zero
from .targets import Target
from .tiling import annotation_of, blocks_of, extent, find, inline_epilogue, keep_beside, partition, vectorize

_ROWS = "graphprune.rows"
_LANES = "graphprune.lanes"
_FILLED = "graphprune.filled"
_REDUCTION = 2
# So many numbers of every stage stay in the first-level cache.
_NEAR = 2048


def softmax(data: te.Tensor, lanes: int) -> te.Tensor:
    """Softmax over the last axis of `(*lead, length)`."""
    *lead, length = (int(size) for size in data.shape)
    powers, total, _ = _powers(data, lead, length, lanes)
    inverse = te.compute(lead, lambda *i: tirx.const(1, data.dtype) / total(*i), name="inverse")
    return te.compute(
        (*lead, length), lambda *i: powers(*i) * inverse(*i[:-1]), name="softmax", attrs={_ROWS: [len(lead)]}
    )


def log_softmax(data: te.Tensor, lanes: int) -> te.Tensor:
    """The logarithm of the softmax over the last axis of `(*lead, length)`."""
    *lead, length = (int(size) for size in data.shape)
    _, total, highest = _powers(data, lead, length, lanes)
    shift = te.compute(lead, lambda *i: log(total(*i)), name="shift")
    return te.compute(
        (*lead, length),
        lambda *i: data(*i) - highest(*i[:-1]) - shift(*i[:-1]),
        name="log_softmax",
        attrs={_ROWS: [len(lead)]},
    )


def _powers(data: te.Tensor, lead: list[int], length: int, lanes: int) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """The exponential of every number below the greatest of its row; their sum; the greatest."""
    # The exponential of minus infinity adds nothing to a sum.
    data = filled(data, lead, length, lanes, float("-inf"))
    width = int(data.shape[-1])
    highest = _maximum(data, lead, width, lanes)
    powers = te.compute((*lead, width), lambda *i: exp_below_zero(data(*i) - highest(*i[:-1])), name="powers")
    return powers, row_sum(powers, lead, width, lanes, "total"), highest


def filled(
    value: Callable[..., tirx.Expr], lead: list[int], length: int, lanes: int, fill: float, name: str = "filled"
) -> Callable[..., tirx.Expr]:
    """Rows of whole vectors: those of `value`, and `fill` in what is left of the last one."""
    width = -(-length // lanes) * lanes
    if width == length and isinstance(value, te.Tensor):
        return value

    def element(*i):
        number = value(*i)
        return number if width == length else tirx.if_then_else(i[-1] < length, number, tirx.const(fill, "float32"))

    return te.compute((*lead, width), element, name=name, attrs={} if width == length else {_FILLED: [1]})


def _maximum(data: te.Tensor, lead: list[int], length: int, lanes: int) -> te.Tensor:
    """The greatest number of each row of whole vectors: per lane, then over the lanes."""
    k = te.reduce_axis((0, length // lanes), "k")
    per_lane = te.compute(
        (*lead, lanes), lambda *i: te.max(data(*i[:-1], k * lanes + i[-1]), axis=[k]), name="lanes", attrs={_LANES: [1]}
    )
    return te.compute(lead, lambda *i: _over_lanes(per_lane, i, lanes, tirx.max), name="highest")


def row_sum(value: Callable[..., tirx.Expr], lead: list[int], length: int, lanes: int, name: str) -> te.Tensor:
    """The sum of each row of whole vectors: lane by lane, and then over the lanes in a tree."""
    k = te.reduce_axis((0, length // lanes), "k")
    per_lane = te.compute(
        (*lead, lanes),
        lambda *i: te.sum(value(*i[:-1], k * lanes + i[-1]), axis=[k]),
        name=f"{name}_lanes",
        attrs={_LANES: [1]},
    )
    return te.compute(lead, lambda *i: _over_lanes(per_lane, i, lanes, add), name=name)


def _over_lanes(
    per_lane: te.Tensor, row: tuple[tirx.Var, ...], lanes: int, operator: Callable[..., tirx.Expr]
) -> tirx.Expr:
    """All lanes of a row in one number, in a tree."""
    parts = [per_lane(*row, lane) for lane in range(lanes)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [operator(left, right) for left, right in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


def layer_norm(data: te.Tensor, scale: te.Tensor, shift: te.Tensor, epsilon: float, lanes: int) -> te.Tensor:
    """Normalise the last axis of `(*lead, length)` to mean 0 and variance 1, then scale and shift."""
    *lead, length = (int(size) for size in data.shape)
    share = tirx.const(1.0 / length, data.dtype)
    whole = filled(data, lead, length, lanes, 0.0)
    width = int(whole.shape[-1])
    total = row_sum(whole, lead, width, lanes, "total")
    mean = te.compute(lead, lambda *i: total(*i) * share, name="mean")
    # The variance comes from the differences: subtracting two large sums would lose the digits that matter.
    centred = filled(lambda *i: data(*i) - mean(*i[:-1]), lead, length, lanes, 0.0, "centred")
    squares = row_sum(lambda *i: centred(*i) * centred(*i), lead, width, lanes, "squares")
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
    whole = filled(data, lead, length, lanes, 0.0)
    squares = row_sum(lambda *i: whole(*i) * whole(*i), lead, int(whole.shape[-1]), lanes, "squares")
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
    row = sch.split(row, [None, _together(extent(sch, row), extent(sch, sch.get_loops(result)[-1]))])[0]
    sch.parallel(row)
    keep_beside(sch, stages, row)
    for block in (*stages, result):
        schedule_stage(sch, block, target)
    return sch


def _together(rows: int, length: int) -> int:
    """How many rows are computed together: one alone leaves the processor waiting for each of its stages."""
    return next((count for count in (8, 4, 2) if rows % count == 0 and count * length <= _NEAR), 1)


def schedule_stage(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, target: Target) -> None:
    """Whole vectors are vectorised by us; ragged rows are left as loops that the code generator vectorises."""
    loops, annotations = sch.get_loops(block)[1:], sch.get(block).annotations
    reduces = any(int(var.iter_type) == _REDUCTION for var in sch.get(block).iter_vars)
    if reduces:
        *_, inner, k = loops if len(loops) > 1 else (None, *loops)
        if _LANES in annotations:
            sch.reorder(k, inner)
            vectorize(sch, inner)
            vectorize(sch, sch.get_loops(sch.decompose_reduction(block, k))[-1])
        else:
            sch.decompose_reduction(block, k)
    elif _FILLED in annotations:
        partition(sch, loops[-1])
    elif loops and extent(sch, loops[-1]) % target.vector_width == 0:
        vectorize(sch, sch.split(loops[-1], [None, target.vector_width])[1])
