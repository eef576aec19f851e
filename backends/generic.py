"""The rule that takes everything: inline, then vectorise the innermost axis and run outer loops in parallel.

A function is a list of blocks. Elementwise blocks are inlined into what reads them; the remaining ones get
their loops reordered, split and marked one by one, so that nothing runs in plain scalar loops.
"""

from math import prod

import tvm
from tvm import s_tir, tirx

from .targets import Target
from .tiling import blocks_of, extent

_SPATIAL, _REDUCTION = 0, 2
# Below this many iterations a thread costs more than it saves.
_WORTH_A_THREAD = 16384


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule any function whose loops a schedule can express; None where TVM refuses."""
    try:
        sch = s_tir.Schedule(function)
        _inline(sch)
        for block in blocks_of(sch):
            _schedule_block(sch, block, target)
    except (tvm.error.InternalError, s_tir.ScheduleError, RuntimeError, ValueError):
        return None
    return sch


def _inline(sch: s_tir.Schedule) -> None:
    """Inline every elementwise block that is not the last one."""
    for block in blocks_of(sch)[:-1]:
        if all(var.iter_type == _SPATIAL for var in sch.get(block).iter_vars):
            try:
                sch.compute_inline(block)
            except s_tir.ScheduleError:
                continue


def _schedule_block(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, target: Target) -> None:
    """One block: spatial loops outside, sums inside them, lanes innermost."""
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    loops = sch.get_loops(block)
    if not loops or len(loops) != len(kinds) or any(kind not in (_SPATIAL, _REDUCTION) for kind in kinds):
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _SPATIAL]
    sums = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCTION]
    work = prod(extent(sch, loop) for loop in loops)
    if sums:
        _schedule_sum(sch, block, spatial, sums, work, target)
    elif spatial:
        *outer, inner = spatial
        if extent(sch, inner) == 1 or (outer and extent(sch, inner) < target.vector_width and len(outer) > 0):
            inner = sch.fuse(*spatial)
            outer = []
        rest, lane = _split_lanes(sch, inner, target)
        if work >= _WORTH_A_THREAD:
            sch.parallel(sch.fuse(*outer, rest))
        sch.vectorize(lane)


def _split_lanes(sch: s_tir.Schedule, loop, target: Target) -> tuple:
    """Split off one vector; a ragged end is peeled so that the vectors before it need no test."""
    width = min(target.vector_width, extent(sch, loop))
    rest, lane = sch.split(loop, [None, width])
    return rest, lane


def _schedule_sum(sch: s_tir.Schedule, block, spatial: list, sums: list, work: int, target: Target) -> None:
    """Sums run outside the lanes when the lanes lie next to each other in memory, else inside."""
    if not spatial:
        return
    *outer, inner = spatial
    if extent(sch, inner) > 1:
        rest, lane = _split_lanes(sch, inner, target)
        sch.reorder(*outer, rest, *sums, lane)
        if work >= _WORTH_A_THREAD:
            sch.parallel(sch.fuse(*outer, rest))
        sch.vectorize(lane)
    elif outer and work >= _WORTH_A_THREAD:
        sch.parallel(sch.fuse(*outer))
    start = sums[0]
    sch.decompose_reduction(block, start)
