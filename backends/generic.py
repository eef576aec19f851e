"""The rule that takes everything: inline, then put the contiguous axis innermost and outer loops in parallel.

A function is a list of blocks. Elementwise blocks are inlined into what reads them; the remaining ones get their
loops reordered and marked one by one. A contiguous axis that fills whole vectors is vectorised here; a ragged one
is left as a plain innermost loop, which the code generator vectorises with a scalar remainder.
"""

from math import prod
from typing import Any

from tvm import ir, s_tir, tirx
from tvm.tirx.analysis import undefined_vars

from .targets import Target
from .tiling import blocks_of, extent, partition, vectorize

_SPATIAL, _REDUCTION = 0, 2
# Below this many iterations waking a thread costs more than it saves.
_WORTH_A_THREAD = 16384
# On a block with a sum: its last axis are lanes, to be computed side by side.
LANES = "graphprune.lanes"
# A transposing block goes through memory in squares of this size.
_SQUARE = 16
# Strides below this many numbers stay within pages that the processor has at hand.
_FAR = 512
# An expression with as many named parts is not put into another one that has some.
_MANY_NAMES = 4
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule any function whose loops a schedule can express."""
    sch = s_tir.Schedule(function)
    _inline(sch)
    for block in blocks_of(sch):
        _schedule_block(sch, block, target)
    return sch


def _inline(sch: s_tir.Schedule) -> None:
    """Inline every elementwise block that is not the last one, but for functions of functions.

    The time that TVM takes over names for parts of an expression grows exponentially with their nesting.
    """
    *before, last = blocks_of(sch)
    for place, block in enumerate(before):
        later = [*before[place + 1 :], last]
        if _names(sch, block) >= _MANY_NAMES and any(_names(sch, other) for other in later):
            continue
        if all(int(var.iter_type) == _SPATIAL for var in sch.get(block).iter_vars):
            try:
                sch.compute_inline(block)
            except s_tir.ScheduleError:
                # Results of the function, and indices that depend on data, stay where they are.
                continue


def _names(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> int:
    """How many parts of the expression of a block have names."""
    return _names_in(getattr(sch.get(block).body, "value", None))


def _names_in(expression: Any) -> int:
    return isinstance(expression, tirx.Let) + sum(map(_names_in, _parts_of(expression)))


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
    elif sums and LANES not in sch.get(block).annotations and not _contiguous(sch, block, wide[-1][1].var):
        lane, outer = None, [loop for loop, _ in wide]
    else:
        lane = wide[-1][0]
    if not sums and len(wide) > 1 and _schedule_transpose(sch, block, wide, work):
        return
    unit = [loop for loop, _ in spatial if extent(sch, loop) == 1]
    order = [*unit, *outer, *sums, *([lane] if lane is not None else [])]
    if len(order) > 1:
        sch.reorder(*order)
    if outer and work >= _WORTH_A_THREAD:
        sch.parallel(sch.fuse(*outer))
    if lane is not None and _joins(sch, block, wide[-1][1].var):
        # Whole runs of each operand, instead of a question per number.
        partition(sch, lane)
    elif lane is not None and extent(sch, lane) % target.vector_width == 0:
        vectorize(sch, sch.split(lane, [None, target.vector_width])[1])
    if sums:
        sch.decompose_reduction(block, sums[0])


def _contiguous(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, axis: tirx.Var) -> bool:
    """Whether some operand is read along `axis` from one place in memory to the next."""
    for read in sch.get(block).reads:
        if len(read.region) and read.region[-1].min.same_as(axis):
            return True
    return False


def _joins(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, lane: tirx.Var) -> bool:
    """Whether a block concatenates tensors along its last axis, so that runs of it come from one operand each.

    The runs must be the same in every round of the other loops: of those that depend on them, as where channels that do
    not fill their vectors are joined, TVM takes rounds apart that do not exist, and writes over what lies before.
    """
    if not sch.get(block).name_hint.startswith("T_concat") or len(sch.get(block).reads) < 2:
        return False
    asked = [undefined_vars(question) for question in _questions(getattr(sch.get(block).body, "value", None))]
    runs = [variables for variables in asked if any(variable.same_as(lane) for variable in variables)]
    return bool(runs) and all(len(variables) == 1 for variables in runs)


def _questions(expression: Any) -> list[ir.Expr]:
    """The comparisons that an expression makes to choose between values."""
    found = [expression] if isinstance(expression, _COMPARISONS) else []
    return found + [question for part in _parts_of(expression) for question in _questions(part)]


def _parts_of(expression: Any) -> list[ir.Expr]:
    if isinstance(expression, ir.Call):
        parts = list(expression.args)
    else:
        fields = ("condition", "true_value", "false_value", "a", "b", "value", "body")
        parts = [getattr(expression, field) for field in fields if hasattr(expression, field)]
    return [part for part in parts if isinstance(part, ir.Expr)]


def _schedule_transpose(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, wide: list[tuple], work: int) -> bool:
    """A block that reads along another axis than it writes, far apart: in squares, which stay in the cache."""
    across = _read_across(sch, block, [var.var for _, var in wide])
    if not across:
        return False
    (rows, _), (columns, _) = wide[across[0]], wide[-1]
    outer = [loop for place, (loop, _) in enumerate(wide[:-1]) if place != across[0]]
    pieces = [sch.split(loop, [None, _square(extent(sch, loop))]) for loop in (rows, columns)]
    (row_out, row), (column_out, column) = pieces
    sch.reorder(*outer, row_out, column_out, *((row, column) if len(across) == 1 else (column, row)))
    square = sch.fuse(*outer, row_out, column_out)
    if len(across) > 1:
        # Lines of several operands, a power of two apart, would push each other out of the cache before their last
        # number is read: they are read whole into a small buffer, and turned on their way out of it.
        sch.reverse_compute_at(sch.cache_write(block, 0, "local"), square, preserve_unit_loops=True)
    if work >= _WORTH_A_THREAD:
        sch.parallel(square)
    return True


def _square(size: int) -> int:
    """A divisor of a size near that of a square, or else that of a square itself: its tail asks where it ends."""
    divisors = [number for number in range(_SQUARE // 2, 2 * _SQUARE + 1) if size % number == 0]
    return min(divisors, key=lambda number: abs(number - _SQUARE), default=min(size, _SQUARE))


def _read_across(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, axes: list[tirx.Var]) -> list[int]:
    """Which axes operands are contiguous along, if not along the last one, along which they have wide strides."""
    found = []
    for read in sch.get(block).reads:
        minima = [interval.min for interval in read.region]
        shape = [int(size) for size in read.source.shape]
        if len(minima) < 2 or not any(minima[-1].same_as(axis) for axis in axes[:-1]):
            continue
        places = [place for place, minimum in enumerate(minima) if minimum.same_as(axes[-1])]
        if places and prod(shape[places[0] + 1 :]) >= _FAR:
            found.append(next(place for place, axis in enumerate(axes) if minima[-1].same_as(axis)))
    return found
