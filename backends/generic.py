"""The rule that takes everything: inline, then put the contiguous axis innermost and outer loops in parallel.

A function is a list of blocks. Elementwise blocks are inlined into what reads them; the remaining ones get their
loops reordered and marked one by one. A contiguous axis that fills whole vectors is vectorised here; a ragged one
is left as a plain innermost loop, which the code generator vectorises with a scalar remainder.
"""

from math import prod

from tvm import s_tir, tirx

from .targets import Target
from .tiling import blocks_of, extent, vectorize

_SPATIAL, _REDUCTION = 0, 2
# Below this many iterations waking a thread costs more than it saves.
_WORTH_A_THREAD = 16384


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule any function whose loops a schedule can express."""
    sch = s_tir.Schedule(function)
    _inline(sch)
    for block in blocks_of(sch):
        _schedule_block(sch, block, target)
    return sch


def _inline(sch: s_tir.Schedule) -> None:
    """Inline every elementwise block that is not the last one."""
    for block in blocks_of(sch)[:-1]:
        if all(int(var.iter_type) == _SPATIAL for var in sch.get(block).iter_vars):
            try:
                sch.compute_inline(block)
            except s_tir.ScheduleError:
                # Results of the function, and indices that depend on data, stay where they are.
                continue


def _schedule_block(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, target: Target) -> None:
    """One block: spatial loops outside, sums inside them, and innermost the axis that is contiguous in memory."""
    variables = list(sch.get(block).iter_vars)
    loops = sch.get_loops(block)
    kinds = [int(var.iter_type) for var in variables]
    constant = all(isinstance(sch.get(loop).extent, tirx.IntImm) for loop in loops)
    if not loops or not constant or len(loops) != len(kinds) or set(kinds) - {_SPATIAL, _REDUCTION}:
        return
    work = prod(extent(sch, loop) for loop in loops)
    axes = list(zip(loops, kinds, variables, strict=True))
    spatial = [(loop, var) for loop, kind, var in axes if kind == _SPATIAL]
    sums = [loop for loop, kind, _ in axes if kind == _REDUCTION]
    # Axes of extent one would hide the contiguous one behind them.
    wide = [pair for pair in spatial if extent(sch, pair[0]) > 1]
    outer = [loop for loop, _ in wide[:-1]]
    if not wide:
        lane = None
    elif sums and not _contiguous(sch, block, wide[-1][1].var):
        lane, outer = None, [loop for loop, _ in wide]
    else:
        lane = wide[-1][0]
    unit = [loop for loop, _ in spatial if extent(sch, loop) == 1]
    order = [*unit, *outer, *sums, *([lane] if lane is not None else [])]
    if len(order) > 1:
        sch.reorder(*order)
    if outer and work >= _WORTH_A_THREAD:
        sch.parallel(sch.fuse(*outer))
    if lane is not None and extent(sch, lane) % target.vector_width == 0:
        vectorize(sch, sch.split(lane, [None, target.vector_width])[1])
    if sums:
        sch.decompose_reduction(block, sums[0])


def _contiguous(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, axis: tirx.Var) -> bool:
    """Whether some operand is read along `axis` from one place in memory to the next."""
    for read in sch.get(block).reads:
        if len(read.region) and read.region[-1].min.same_as(axis):
            return True
    return False
