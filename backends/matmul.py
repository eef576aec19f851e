"""Matrix products: constant weights are packed at compile time, other operands on the fly.

The result is computed in tiles of a few rows by a few vectors that stay in registers. Rows and columns that do
not fill a tile are computed from zeros or from the last row and dropped.

Long sums are taken in shares: all tiles take one share of the inner axis, then the next one. So a share of the rows and
of a panel of weights stays near while it is needed, and the sums wait in memory.
"""

from dataclasses import dataclass, field, replace
from math import log2, prod

import numpy as np
from tvm import s_tir, te, tirx

from .cores import SERVER, Core
from .dots import QUAD, accumulate_dots, takes_bytes
from .halving import widened
from .prefetch import NARROW, ask, rows_per_line
from .targets import Target
from .tiling import (
    accumulate,
    annotation_of,
    extent,
    find,
    inline_epilogue,
    merge_axes,
    named,
    register_tile,
    register_tiles,
    split_for_threads,
    unroll,
    vectorize,
)

Block, Loop = s_tir.schedule.SBlockRV, s_tir.schedule.LoopRV

_TILE = "graphprune.matmul"
# What a processor's second-level cache holds of the left operand, and of the next panel of weights.
_CACHE, _PANEL = 2 << 20, 256 << 10
# The longest inner axis that is taken at once, the shortest share of a longer one, and the fewest rows for which that
# pays.
_WHOLE, _SHORTEST, _FEW_ROWS = 768, 128, 32
# Lines of weights that are asked for at once, and rounds of a loop that are unrolled.
_BURST, _UNROLLED = 8, 8


@dataclass(frozen=True)
class MatMul:
    """`batch` independent products of `(rows, inner)` and `(inner, columns)`.

    `weights` and `data` are the element types of the right and the left operand. `chosen` is the `choice`
    to take; None for the one that promises to be the fastest.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    lanes: int
    registers: int
    weights: str = "float32"
    data: str = "float32"
    chosen: tuple[int, int] | None = None
    core: Core = field(default=SERVER, repr=False)

    @property
    def integers(self) -> bool:
        """Whether bytes are multiplied, with int32 sums."""
        return self.data != "float32"

    @property
    def choice(self) -> tuple[int, int]:
        """What may be chosen: rows and column blocks per register tile."""
        return self.tile

    @property
    def macs(self) -> int:
        """Multiply-adds, those of empty lanes included."""
        return self.batch * self.rows * self.inner * self.blocks * self.lanes

    def candidates(self) -> "list[MatMul]":
        """This product with every choice, the most promising first."""
        tiles = register_tiles(self.rows, -(-self.columns // self.lanes), self.registers, core=self.core)
        choices = dict.fromkeys([self.tile, *((tile.width, tile.depth) for tile in tiles)])
        return [replace(self, chosen=choice) for choice in choices]

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and column blocks per register tile."""
        if self.chosen:
            return self.chosen
        if self.rows == 1:
            return 1, min(8, -(-self.columns // self.lanes))
        blocks = -(-self.columns // self.lanes)
        if self.lanes < NARROW:
            # Every row takes a register for its address: more vectors of columns leave fewer rows to a tile.
            tiles = register_tiles(self.rows, min(blocks, 4), self.registers, core=self.core)
            best = next(tile for tile in tiles if tile.depth == min(blocks, 4, self.registers))
            return best.width, best.depth
        if self.registers >= 16 and self.rows * self.inner * 4 > _CACHE and self.columns >= 4 * self.lanes:
            # The rows do not stay in the cache: a tile of more columns reads them less often.
            return 6, 4
        rows = register_tile(self.rows, 2, self.registers, core=self.core).width
        return rows, min(max(1, self.registers // rows), blocks)

    @property
    def shares(self) -> int:
        """How many equal parts the inner axis is taken in: more than one only where there are several panels."""
        if (
            self.integers
            or self.batch > 1
            or self.rows < _FEW_ROWS
            or self.inner <= _WHOLE
            or self.blocks == self.tile[1]
        ):
            return 1
        sizes = [n for n in range(_SHORTEST, self.inner, _UNROLLED) if self.inner % n == 0]
        fitting = [n for n in sizes if n <= _WHOLE]
        return self.inner // max(fitting or sizes[:1], default=self.inner)

    @property
    def blocks(self) -> int:
        """Column blocks, rounded up to whole tiles."""
        depth = self.tile[1]
        return -(-self.columns // (self.lanes * depth)) * depth


def pack_weights(weight: np.ndarray, shape: MatMul) -> np.ndarray:
    """Arrange weights `(inner, columns)` as `(blocks, inner, lanes)`, with zeros in empty lanes."""
    packed = np.zeros((shape.inner, shape.blocks * shape.lanes), weight.dtype)
    packed[:, : shape.columns] = weight
    return np.ascontiguousarray(packed.reshape(shape.inner, shape.blocks, shape.lanes).transpose(1, 0, 2))


def _pack(shape: MatMul, data: te.Tensor, batches: tuple[int, ...]) -> te.Tensor:
    """The right operand `(*batches, inner, columns)` in blocks of columns."""

    def value(b, o, k, lane):
        column = o * shape.lanes + lane
        read = data(*_split(b, batches), k, column)
        if shape.columns == shape.blocks * shape.lanes:
            return read
        return tirx.if_then_else(column < shape.columns, read, tirx.const(0, data.dtype))

    return te.compute((shape.batch, shape.blocks, shape.inner, shape.lanes), value, name="pack_columns")


def _split(index, extents: tuple[int, ...]) -> list:
    """A flat index as one index per axis; axes of extent one are broadcast."""
    parts = []
    for size in reversed(extents):
        parts.append(index % size if size > 1 else 0)
        index = index // size if size > 1 else index
    return parts[::-1]


def compute(shape: MatMul, data: te.Tensor, weight: te.Tensor, out_shape: tuple[int, ...], packed: bool) -> te.Tensor:
    """The product as an expression of shape `out_shape`, `(*leading, columns)`.

    With packed weights all leading axes are rows; otherwise all but the last are batches that both operands share.
    """
    lead = out_shape[:-1]
    rows_of = lead if packed else lead[-1:]
    high, deep = shape.tile
    tiles = -(-shape.rows // high)
    blocks = weight if packed else _pack(shape, weight, lead[:-1])
    shares = shape.shares if packed else 1
    length = shape.inner // shares
    k = te.reduce_axis((0, length // QUAD if shape.integers else length), "k")
    byte = te.reduce_axis((0, QUAD), "byte")

    def term(b, share, t, o, r, lane):
        row = t * high + r
        row = row if tiles * high == shape.rows else tirx.min(row, shape.rows - 1)
        where = _split(row, rows_of) if packed else [*_split(b, lead[:-1]), row]
        if shape.integers:
            read, right = data(*where, k * QUAD + byte), blocks(o, k, lane, byte)
            return te.sum(tirx.Cast("int32", read) * tirx.Cast("int32", right), axis=[k, byte])
        inner = share * length + k
        right = widened(blocks, o, inner, lane) if packed else blocks(b, o, inner, lane)
        return te.sum(data(*where, inner) * right, axis=[k])

    size = (tiles, shape.blocks, high, shape.lanes)
    notes = {_TILE: [high, deep, len(lead) - len(rows_of), shares]}
    if shares > 1:
        parts = te.compute((shape.batch, shares, *size), term, name="matmul", attrs=notes)
        share = te.reduce_axis((0, shares), "share")
        total = te.compute((shape.batch, *size), lambda b, *i: te.sum(parts(b, share, *i), axis=[share]), name="total")
    else:
        total = te.compute(
            (shape.batch, *size), lambda b, t, o, r, lane: term(b, 0, t, o, r, lane), name="matmul", attrs=notes
        )

    def result(*index):
        *leading, column = index
        batch = 0 if packed else _join(leading[:-1], lead[:-1])
        row = _join(leading, lead) if packed else leading[-1]
        return total[batch, row // high, column // shape.lanes, row % high, column % shape.lanes]

    return te.compute(out_shape, result, name="untile")


def _join(index: list, extents: tuple[int, ...]):
    """Several indices as one flat index; axes of extent one add nothing."""
    flat = 0
    for position, size in zip(index, extents, strict=True):
        flat = flat * size + position if size > 1 else flat
    return flat


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains the template and whatever elementwise work was fused behind it."""
    sch = s_tir.Schedule(function)
    sums = find(sch, _TILE)
    if sums is None:
        return None
    high, deep, batches, shares = annotation_of(sch, sums, _TILE)
    lanes = extent(sch, sch.get_loops(sums)[-3 if takes_bytes(sch, sums) else -2])
    result = inline_epilogue(sch, sums if shares == 1 else named(sch, "total"))
    merge_axes(sch, result, batches, len(sch.get_loops(result)) - batches - 1)
    *batch, row, columns = sch.get_loops(result)
    tile, inner_row = sch.split(row, [None, high])
    block, inner_block, lane = sch.split(columns, [None, deep, lanes])
    sch.reorder(*batch, block, tile, inner_block, inner_row, lane)
    vectorize(sch, lane)
    unroll(sch, inner_block, inner_row)
    sch.set_scope(sums, 0, "local")
    if shares > 1:
        return _by_shares(sch, sums, block, deep)
    pack = named(sch, "pack_columns")
    panels, tiles = extent(sch, block), extent(sch, tile)
    part, tile = split_for_threads(sch, tile, prod(extent(sch, loop) for loop in (*batch, block)))
    piece = sch.fuse(*batch, block, part)
    sch.parallel(piece)
    sch.compute_at(sums, tile, preserve_unit_loops=True)
    if takes_bytes(sch, sums):
        quads = sch.get_loops(sums)[-2]
        sch.split(quads, [None, next(n for n in (_UNROLLED, 4, 2, 1) if extent(sch, quads) % n == 0)])
        accumulate_dots(sch, sums, outer=2, spatial=5, unrolled=1, instruction=target.dots)
        return sch
    burst = _accumulate(sch, sums, deep, tiles, outer=2, spatial=5)
    if pack is None:
        return _with_prefetch(sch, sums, deep, (piece, tile, burst)) if panels > 1 and burst else sch
    b, o, _, lane = sch.get_loops(pack)
    vectorize(sch, lane)
    sch.parallel(sch.fuse(b, o))
    return sch


def _by_shares(sch: s_tir.Schedule, sums: Block, panel: Loop, deep: int) -> s_tir.Schedule:
    """One share of the inner axis after the other; each thread keeps its panels throughout, and waits for no other."""
    total = named(sch, "total")
    sch.parallel(panel)
    launch = sch.add_unit_loop(panel)
    sch.annotate(launch, "pragma_parallel_launch_point", 1)
    sch.compute_at(total, launch, preserve_unit_loops=True)
    *_, tile, block, row, lane, share = sch.get_loops(total)
    panel, block = sch.split(block, [None, deep])
    sch.reorder(share, panel, tile, block, row, lane)
    sch.parallel(panel)
    vectorize(sch, lane)
    unroll(sch, block, row)
    sch.compute_at(sums, tile, preserve_unit_loops=True)
    sch.decompose_reduction(total, share)
    outer = len(sch.get_loops(sums)) - 7
    burst = _accumulate(sch, sums, deep, extent(sch, tile), outer, spatial=6)
    return _with_prefetch(sch, sums, deep, (panel, tile, burst), share) if burst else sch


def _accumulate(sch: s_tir.Schedule, sums: Block, deep: int, tiles: int, outer: int, spatial: int) -> Loop | None:
    """Sums in registers. Returns the loop in whose rounds each tile can ask for a portion of the next weights, or None.

    A single row of data is gone before more weights could arrive.
    """
    *_, tile_rows, lane, k = sch.get_loops(sums)
    length, lanes = extent(sch, k), extent(sch, lane)
    unrolled, bursts = min(_UNROLLED, lanes), 0
    few = deep * length * lanes * 4 <= _PANEL and tiles * extent(sch, tile_rows) > 1
    if few and length % unrolled == 0 and tiles <= deep * length:
        wanted = deep * length / rows_per_line(length, lanes) / tiles / _BURST
        unrolled, bursts = _bursts(length, unrolled, max(1.0, wanted))
    burst, *_ = sch.split(k, [max(bursts, 1), None, unrolled])
    accumulate(sch, sums, outer, spatial, unrolled=1)
    return burst if bursts else None


def _bursts(length: int, unrolled: int, wanted: float) -> tuple[int, int]:
    """How many rounds are unrolled, and a number of equal bursts near the wanted one.

    Too many take time to ask, too few ask for too much at once; shorter rounds are better than either, as for a length
    of 8 * 2 * 47, which has no better divisor.
    """

    def far(choice: tuple[int, int]) -> float:
        rounds, bursts = choice
        return abs(log2(bursts / wanted)) + (rounds < unrolled) / 2

    rounds = [size for size in (unrolled, unrolled // 2) if size and length % size == 0]
    return min(((size, n) for size in rounds for n in range(1, length // size + 1) if length // size % n == 0), key=far)


def _with_prefetch(
    sch: s_tir.Schedule, sums: Block, deep: int, loops: tuple[Loop, Loop, Loop], share: Loop | None = None
) -> s_tir.Schedule:
    """While a panel of weights is used for one tile after the other, each tile asks for its portion of the next panel.

    `loops` run over panels, or parts of them, over tiles, and over bursts. Each burst asks for a few lines and leaves
    the processor some time to fetch them. The next panel after the last one is the first one, of the next share.
    """
    piece, tile, burst = (sch.get(loop) for loop in loops)
    shares, share = (int(sch.get(share).extent), sch.get(share).loop_var) if share is not None else (1, 0)
    weights = sch.get(sums).reads[-1].source
    panels, length = int(weights.shape[0]) // deep, int(weights.shape[1]) // shares
    parts = int(piece.extent) // panels
    following = piece.loop_var // parts + 1
    passed = following // panels
    block, first = (following - passed * panels) * deep, (share + passed) % shares * length
    number = (piece.loop_var % parts * tile.extent + tile.loop_var) * burst.extent + burst.loop_var
    step = rows_per_line(length, int(weights.shape[2]))
    each = length // step
    lines, bursts = deep * each, int(parts * tile.extent * burst.extent)
    asked = -(-lines // bursts)
    places = []
    for position in range(asked):
        line = number * asked + position
        line = line if bursts * asked == lines else tirx.min(line, lines - 1)
        places.append((block + line // each, first + line % each * step, 0))
    return s_tir.Schedule(ask(sch.mod["main"], burst.loop_var, weights, places))
