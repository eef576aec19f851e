"""What the schedule rules share: finding blocks, inlining what was fused, tiles that live in registers."""

from dataclasses import dataclass
from math import ceil

from tvm import s_tir, tirx

from .cores import SERVER, Core

_SERIAL = 0
# With more output blocks in a tile than this, too many streams of weights are read at once.
_DEEPEST = 6
# Tiles of at least so many output blocks need few registers beside their sums.
_DEEP = 3
# Bytes per cycle that one core reads from the third-level cache, from the second-level cache.
_FROM_THIRD, _FROM_SECOND = 10.0, 40.0
# Enough parallel pieces to keep the threads of a large machine busy.
_PIECES = 32
# Parts of an image that threads share, at least: rows of images often come by the seven.
PARTS = 7


def is_finished(function: tirx.PrimFunc) -> bool:
    """Whether a kernel comes as finished code, which no schedule can be given to, and not as a list of blocks."""
    body = function.body
    return not isinstance(body, s_tir.SBlockRealize) or body.block.name_hint != "root"


def blocks_of(schedule: s_tir.Schedule) -> list[s_tir.schedule.SBlockRV]:
    """The blocks of a function in program order."""
    return schedule.get_child_blocks(schedule.get_sblock("root"))


def find(schedule: s_tir.Schedule, annotation: str) -> s_tir.schedule.SBlockRV | None:
    """The block that carries an annotation, or None."""
    for block in blocks_of(schedule):
        if annotation in schedule.get(block).annotations:
            return block
    return None


def named(schedule: s_tir.Schedule, name: str) -> s_tir.schedule.SBlockRV | None:
    """The block of this name, or None."""
    for block in blocks_of(schedule):
        if schedule.get(block).name_hint == name:
            return block
    return None


def annotation_of(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, name: str) -> tuple[int, ...]:
    """An annotation that is a list of integers."""
    return tuple(int(item) for item in schedule.get(block).annotations[name])


def inline_epilogue(schedule: s_tir.Schedule, reduction: s_tir.schedule.SBlockRV) -> s_tir.schedule.SBlockRV:
    """Inline everything between a reduction and the last block; returns the last block."""
    consumers = _all_consumers(schedule, reduction)
    for block in consumers[:-1]:
        schedule.compute_inline(block)
    return consumers[-1] if consumers else reduction


def inline_prologue(schedule: s_tir.Schedule, reduction: s_tir.schedule.SBlockRV) -> s_tir.schedule.SBlockRV | None:
    """Inline everything before a reduction into the last block there, and return that; None where there is nothing.

    The border of a convolution, which its template adds itself, does not count.
    """
    names = [schedule.get(block).name_hint for block in blocks_of(schedule)]
    *before, last = blocks_of(schedule)[: names.index(schedule.get(reduction).name_hint)] or [None]
    if last is None or schedule.get(last).name_hint == "pad":
        return None
    for block in before:
        schedule.compute_inline(block)
    return last


def _all_consumers(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> list[s_tir.schedule.SBlockRV]:
    """Everything after a block, in program order."""
    blocks = blocks_of(schedule)
    names = [schedule.get(b).name_hint for b in blocks]
    return blocks[names.index(schedule.get(block).name_hint) + 1 :]


def merge_axes(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, first: int, count: int) -> None:
    """Make `count` neighbouring axes of an elementwise block into one.

    Fused loops alone are not enough: a tile that straddles two rows must be one interval of a single axis.
    """
    if count == 1:
        return
    extents = [int(var.dom.extent) for var in schedule.get(block).iter_vars]

    def merged(*index):
        # An axis of extent one must leave no trace: the bounds of a tile would not be seen through it.
        wide = [axis for axis in range(first, first + count) if extents[axis] > 1] or [first]
        flat = index[wide[0]]
        for axis in wide[1:]:
            flat = flat * extents[axis] + index[axis]
        return (*index[:first], flat, *index[first + count :])

    schedule.transform_block_layout(block, tirx.IndexMap.from_func(merged, ndim=len(extents)))


def flatten_image(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """Make one axis of the rows and columns of a blocked value that a block writes."""
    width = int(schedule.get(block).iter_vars[3].dom.extent)
    schedule.transform_layout(block, ("write", 0), lambda n, c, y, x, lane: (n, c, y * width + x, lane))
    merge_axes(schedule, block, 2, 2)


def extent(schedule: s_tir.Schedule, loop: s_tir.schedule.LoopRV) -> int:
    """The constant extent of a loop."""
    return int(schedule.get(loop).extent)


def vectorize(schedule: s_tir.Schedule, loop: s_tir.schedule.LoopRV) -> None:
    """Vectorise a loop that nobody has claimed yet."""
    if schedule.get(loop).kind == _SERIAL:
        schedule.vectorize(loop)


def keep_beside(
    schedule: s_tir.Schedule,
    blocks: list[s_tir.schedule.SBlockRV],
    loop: s_tir.schedule.LoopRV,
    results: tuple[str, ...] = (),
) -> None:
    """Compute blocks, given in program order, inside a loop, in memory of their own unless they are `results`."""
    for block in reversed(blocks):
        if schedule.get(block).name_hint not in results:
            schedule.set_scope(block, 0, "local")
        schedule.compute_at(block, loop, preserve_unit_loops=True)


def partition(schedule: s_tir.Schedule, loop: s_tir.schedule.LoopRV) -> None:
    """Take the first and last rounds of a loop apart: those between need not ask whether they are at a border."""
    schedule.annotate(loop, "pragma_loop_partition_hint", 1)


def unroll(schedule: s_tir.Schedule, *loops: s_tir.schedule.LoopRV) -> None:
    """Unroll loops that nobody has claimed yet."""
    for loop in loops:
        if schedule.get(loop).kind == _SERIAL:
            schedule.unroll(loop)


def accumulate(
    schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, outer: int, spatial: int, unrolled: int
) -> None:
    """Turn a reduction that sits inside a tile loop into accumulators held in registers.

    The block's loops are `outer` loops of the tile, `spatial` loops over the tile (the last one the lanes), and
    the reduction loops, of which the innermost `unrolled` are unrolled.
    """
    loops = schedule.get_loops(block)[outer:]
    tile, sums = loops[:spatial], loops[spatial:]
    schedule.reorder(*sums, *tile)
    vectorize(schedule, tile[-1])
    unroll(schedule, *tile[:-1])
    if unrolled:
        unroll(schedule, *sums[-unrolled:])
    # The initial zeros take over the loop kinds, so vectorise before taking them apart.
    zeros = schedule.get_loops(schedule.decompose_reduction(block, sums[0]))[outer:]
    unroll(schedule, *zeros[:-1])
    vectorize(schedule, zeros[-1])


def split_for_threads(schedule: s_tir.Schedule, tiles: s_tir.schedule.LoopRV, others: int, least: int = 1) -> tuple:
    """Split a loop over tiles, which runs beside `others` pieces of parallel work, into a parallel and a serial part.

    Only as many parallel pieces as threads may need, but `least` of this loop: each one computes its place by
    divisions.
    """
    count = extent(schedule, tiles)
    wanted = min(count, max(least, ceil(_PIECES / others)))
    pieces = next(n for n in range(wanted, count + 1) if count % n == 0)
    return tuple(schedule.split(tiles, [pieces, None]))


def fetching(weights: float, work: float, core: Core = SERVER) -> float:
    """Cycles that weights from memory add to `work` cycles of computing: half of those hide it, but never all of it."""
    cycles = weights / core.memory
    return max(cycles - work / 2, cycles / 5)


def rate(size: float, core: Core = SERVER) -> float:
    """Bytes per cycle at which an operand of `size` bytes is read again and again."""
    return _FROM_SECOND if size <= core.second_level else _FROM_THIRD


def efficiency(columns: int, depth: int, core: Core = SERVER) -> float:
    """The share of the peak that a tile of `columns` by `depth` accumulators can reach.

    All is counted in products: what could have been multiplied in the time that loads take, that vectors of weights are
    on their way, or that a sum is not ready to be added to again.
    """
    work = columns * depth
    loads = (columns + depth if depth > 1 else columns + 1) * core.products / core.loads
    weights, in_flight = depth * core.weight * core.products, core.latency * core.products
    return work / (max(work, loads, weights, in_flight) + 1)


@dataclass(frozen=True, order=True)
class Tile:
    """A tile of accumulators: `width` columns by `depth` output blocks; `cost` is relative, 1 being perfect."""

    cost: float
    width: int
    depth: int


def register_tile(columns: int, blocks: int, registers: int, exact: bool = False, core: Core = SERVER) -> Tile:
    """How many columns and how many output blocks one tile of accumulators takes: the cheapest of `register_tiles`."""
    return register_tiles(columns, blocks, registers, exact, core)[0]


def register_tiles(
    columns: int, blocks: int, registers: int, exact: bool = False, core: Core = SERVER, tall: int = 0
) -> list[Tile]:
    """Tiles of accumulators that fit into so many registers, or `tall` if they are deep, the cheapest first.

    Unless `exact`, columns need not divide evenly, and blocks never: the last tile computes some that are thrown away.
    The choice balances that waste against loads per multiplication and against too few sums in flight.
    """

    def cost(width: int, depth: int) -> float:
        waste = _rounded(columns, width) * _rounded(blocks, depth) / (columns * blocks)
        return round(waste / efficiency(width, depth, core), 3)

    candidates = [
        Tile(cost(width, depth), width, depth)
        for width in range(1, min(columns, max(registers, tall)) + 1)
        for depth in range(1, min(blocks, _DEEPEST) + 1)
        if width * depth <= (max(registers, tall) if depth >= _DEEP else registers) and not (exact and columns % width)
    ]
    return sorted(candidates, key=lambda tile: (tile.cost, -tile.width * tile.depth, tile.depth))


def _rounded(number: int, step: int) -> int:
    return ceil(number / step) * step


def schedule_pad(schedule: s_tir.Schedule, inside: s_tir.schedule.LoopRV | None = None) -> None:
    """Write the block called "pad" in vectors, if there is one: as a whole and in parallel, or what a loop needs."""
    pad = named(schedule, "pad")
    if pad is None:
        return
    if inside is not None:
        keep_beside(schedule, [pad], inside)
    loops = schedule.get_loops(pad)
    vectorize(schedule, loops[-1])
    partition(schedule, loops[-2])
    if inside is None:
        schedule.parallel(schedule.fuse(*loops[:3]))
