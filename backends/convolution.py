"""Convolution in the blocked layout: the computation, its packed weights, and its schedule.

One template covers any kernel, stride, dilation, padding and number of groups. Columns of the output are
computed in tiles that stay in registers; the tile may be larger than what is left of a row, in which case the
padded input supplies zeros and the surplus columns are dropped.
"""

from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import prod

import numpy as np
from tvm import s_tir, te, tirx

from .cores import SERVER, Core
from .dots import QUAD, accumulate_dots, takes_bytes
from .filters import first_block
from .halving import widened
from .prefetch import FEW_TILES, LARGE_WEIGHTS, NARROW, ask, rows_per_line
from .targets import Target
from .tiling import (
    Tile,
    accumulate,
    annotation_of,
    blocks_of,
    extent,
    find,
    inline_epilogue,
    merge_axes,
    named,
    register_tiles,
    schedule_pad,
    split_for_threads,
    unroll,
    vectorize,
)

Block = s_tir.schedule.SBlockRV

_TILE = "graphprune.convolution"
_BY_ROWS = "graphprune.border_by_rows"
_UNROLLED_TAPS = 64
# Which loop of the sums inside a tile runs over output blocks, columns, the rows of the kernel.
_MEMBER, _COLUMN, _KY = 4, 7, 10
# Output pixels few enough to use large weights in shares; bytes of a share and of the sums of a piece, which lie
# together in the first-level cache.
_SMALL_IMAGE, _NEAR, _PIECE = 28 * 28, 9 * 1024, 16 * 1024
# With fewer pixels weights are what takes time, and many streams of them are read no faster.
_LARGE_IMAGE = 128
# Tiles of a single output block read the input once for each block, from further away.
_ALONE = 1.2
# Rows as one may cost this much more than rows apart: they need no padding.
_FLAT = 1.1


@dataclass(frozen=True)
class Convolution:
    """The numbers that make one convolution kernel different from another.

    `lanes_in` is 1 for a plain input `(batch, channels, height, width)`, the vector width for a blocked one, or a
    part of it where the channels do not fill their last block: then a block is read in so many `parts`, and the last
    ones are left out. `reach` is the number of input blocks, or parts of them, that one output block reads; `grouped`
    tells that they start at a different block for each output block: which one is computed from `per_group`, the output
    and input channels of a group, or read from a table where that is (0, 0). `weights` and `data` are the element types
    of both operands, `zero` the number that the border consists of. `registers` may be filled by sums, `tall` by those
    of a tile of several output blocks. `chosen` is the `choice` to take; None for the one that promises to be the
    fastest.
    """

    batch: int
    blocks_in: int
    lanes_in: int
    height: int
    width: int
    blocks_out: int
    lanes: int
    reach: int
    grouped: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    registers: int
    weights: str = "float32"
    data: str = "float32"
    zero: int = 0
    per_group: tuple[int, int] = (0, 0)
    parts: int = 1
    chosen: tuple[int, int, int, int] | None = None
    tall: int = 0
    core: Core = field(default=SERVER, repr=False)

    @property
    def integers(self) -> bool:
        """Whether bytes are multiplied, with int32 sums."""
        return self.data != "float32"

    @property
    def choice(self) -> tuple[int, int, int, int]:
        """What may be chosen: columns and output blocks per register tile, whether rows make one, the share."""
        if self.chosen:
            return self.chosen
        tile = self._flat_tiles[0] if self.flat else self._row_tiles[0]
        return tile.width, tile.depth, int(self.flat), self._share(tile.depth)

    @property
    def macs(self) -> int:
        """Multiply-adds, those of empty lanes included."""
        taps = prod(self.kernel) * self.reach * self.lanes_in
        return self.batch * prod(self.out_size) * taps * self.blocks * self.lanes

    def candidates(self) -> "list[Convolution]":
        """This convolution with every choice, the most promising first."""
        tiles = [(tile.cost, tile.width, tile.depth, 0) for tile in self._row_tiles]
        if self._pointwise:
            tiles += [(tile.cost / _FLAT, tile.width, tile.depth, 1) for tile in self._flat_tiles]
        width, depth, flat, _ = self.choice
        shares = [(width, depth, flat, share) for share in self._shares()]
        others = [(width, depth, flat, self._share(depth)) for _, width, depth, flat in sorted(tiles)]
        turns = [choice for turn in zip_longest(others, shares) for choice in turn if choice is not None]
        return [replace(self, chosen=choice) for choice in dict.fromkeys([self.choice, *turns])]

    def _shares(self) -> list[int]:
        """The shares that are worth a try beside the one that suits."""
        if self.grouped or self.integers or self.reach == 1 or prod(self.out_size) > _SMALL_IMAGE:
            return []
        return [0, *(n for n in self._counts if self.reach % n == 0)]

    @property
    def _counts(self) -> list[int]:
        """Numbers of blocks that a share may have: up to four of 16 by 16, or as many weights in smaller ones."""
        return [1 << power for power in range((4 * (16 // self.lanes) ** 2).bit_length())]

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        top, left, bottom, right = self.padding
        full = (self.height + top + bottom, self.width + left + right)
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return tuple((f - span) // s + 1 for f, span, s in zip(full, spans, self.stride, strict=True))

    @property
    def flat(self) -> bool:
        """A pointwise convolution has no rows: all pixels make one long row, if some tile divides it well."""
        if self.chosen:
            return bool(self.chosen[2])
        return self._pointwise and self._flat_tiles[0].cost <= self._row_tiles[0].cost * _FLAT

    @property
    def tile(self) -> tuple[int, int]:
        """Columns and output blocks per register tile."""
        return self.choice[:2]

    @property
    def blocks(self) -> int:
        """Output blocks that are computed: whole tiles."""
        return -(-self.blocks_out // self.tile[1]) * self.tile[1]

    @property
    def share(self) -> int:
        """How many input blocks all tiles of a piece take in turn; 0 where each tile takes all of them at once."""
        return self.choice[3]

    @property
    def reads_table(self) -> bool:
        """Whether a table says which input block each output block starts at."""
        return self.grouped and not any(self.per_group)

    @property
    def border_by_rows(self) -> bool:
        """Whether each row of results has a border of its own, which stays in the first-level cache.

        It pays where few rows of the input are copied twice, and each of them for one tile of output blocks only. Of
        groups, they must be seen to be one block: blocks must consist of whole groups.
        """
        outputs, inputs = self.per_group
        whole = self.grouped and outputs == inputs > 0 == self.lanes % inputs and self.lanes == self.lanes_in
        once = whole or self.lanes_in == 1 and not self.grouped and self.blocks == self.tile[1]
        return once and (self.kernel[0] - 1) * self.dilation[0] + 1 < 2 * self.stride[0]

    def _share(self, depth: int) -> int:
        """The share that suits tiles of so many output blocks."""
        if self.integers:
            return 0
        taps = self.kernel[0] * self.kernel[1] * self.lanes_in * self.lanes * np.dtype(self.weights).itemsize
        pixels = prod(self.out_size)
        if self._pointwise and depth == 1 < min(pixels, self.reach) and pixels * self.lanes * 4 <= _PIECE:
            # Tiles of one output block read all of the input for each: then block by block is faster than tile by tile.
            return int(not self.grouped)
        if self.grouped or self.blocks_out * self.reach * taps < LARGE_WEIGHTS or pixels > _SMALL_IMAGE:
            return 0
        near = [n for n in self._counts if self.reach % n == 0 and n * taps * depth <= _NEAR]
        return max(near, default=1)

    @property
    def _pointwise(self) -> bool:
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)

    @property
    def _depth(self) -> int:
        return 1 if self.grouped else self.blocks_out

    @property
    def _accumulators(self) -> int:
        """All taps of a plain input are unrolled: two registers more hold what they read."""
        return self.registers - 2 if self.lanes_in == 1 else self.registers

    @property
    def _flat_tiles(self) -> list[Tile]:
        rows, columns = self.out_size
        return self._tiles(rows * columns, exact=True)

    @property
    def _row_tiles(self) -> list[Tile]:
        return self._tiles(self.out_size[1])

    def _tiles(self, columns: int, exact: bool = False) -> list[Tile]:
        tall = self.tall if prod(self.out_size) >= _LARGE_IMAGE else 0
        tiles = register_tiles(columns, self._depth, self._accumulators, exact, self.core, tall)
        if self._depth == 1 or self.lanes_in == 1:
            return tiles
        weighed = [replace(tile, cost=tile.cost * _ALONE) if tile.depth == 1 else tile for tile in tiles]
        return sorted(weighed, key=lambda tile: tile.cost)


def _pad(data: te.Tensor, size: tuple[int, int], shape: Convolution) -> te.Tensor:
    """The input with its border of zeros, `(batch, blocks, height, width, lanes)`."""
    top, left, _, _ = shape.padding
    plain = len(data.shape) == 4

    def value(n, c, y, x, lane):
        inside = tirx.all(y >= top, y < shape.height + top, x >= left, x < shape.width + left)
        read = data(n, c, y - top, x - left) if plain else data(n, c, y - top, x - left, lane)
        return tirx.if_then_else(inside, read, tirx.const(shape.zero, data.dtype))

    lanes = shape.lanes_in * shape.parts
    attrs = {_BY_ROWS: int(shape.border_by_rows)}
    return te.compute((shape.batch, shape.blocks_in, *size, lanes), value, name="pad", attrs=attrs)


def compute(shape: Convolution, data: te.Tensor, weight: te.Tensor, first: te.Tensor | None) -> te.Tensor:
    """The convolution as an expression, `(batch, blocks_out, out_height, out_width, lanes)`."""
    (rows, columns), (kh, kw), (sy, sx), (dy, dx) = shape.out_size, shape.kernel, shape.stride, shape.dilation
    wide, deep = shape.tile
    row_count, column_count = (1, rows * columns) if shape.flat else (rows, columns)
    tiles = -(-column_count // wide)
    if shape.flat:
        source = data
    else:
        needed = ((rows - 1) * sy + (kh - 1) * dy + 1, (tiles * wide - 1) * sx + (kw - 1) * dx + 1)
        fits = not any(shape.padding) and needed[1] <= shape.width and len(data.shape) == 5
        source = data if fits else _pad(data, needed, shape)
    block = te.reduce_axis((0, shape.reach), "block")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    quads = shape.lanes_in // QUAD if shape.integers else shape.lanes_in
    lane_in, byte = te.reduce_axis((0, quads), "lane_in"), te.reduce_axis((0, QUAD), "byte")

    def term(n, group, member, y, t, r, lane):
        o = group * deep + member
        channel = block // shape.parts + (_first_block(shape, o, first) if shape.grouped else 0)
        column = t * wide + r
        place = lane_in * QUAD + byte if shape.integers else block % shape.parts * shape.lanes_in + lane_in
        if shape.flat:
            pixel = (n, channel, column // shape.width, column % shape.width)
            read = source(*pixel) if len(data.shape) == 4 else source(*pixel, place)
        else:
            read = source(n, channel, y * sy + ky * dy, column * sx + kx * dx, place)
        if shape.integers:
            product = tirx.Cast("int32", read) * tirx.Cast("int32", weight(o, block, ky, kx, lane_in, lane, byte))
            return te.sum(product, axis=[block, ky, kx, lane_in, byte])
        return te.sum(read * widened(weight, o, block, ky, kx, lane_in, lane), axis=[block, ky, kx, lane_in])

    size = (shape.batch, shape.blocks // deep, deep, row_count, tiles, wide, shape.lanes)
    sums = te.compute(size, term, name="convolution", attrs={_TILE: list(shape.choice)})

    def result(n, o, y, x, lane):
        row, column = (0, y * columns + x) if shape.flat else (y, x)
        return sums[n, o // deep, o % deep, row, column // wide, column % wide, lane]

    return te.compute((shape.batch, shape.blocks_out, rows, columns, shape.lanes), result, name="untile")


def _first_block(shape: Convolution, block, table: te.Tensor | None):
    """The first input block that an output block reads."""
    if table is not None:
        return table(block)
    start = first_block(block, shape.per_group, shape.lanes, shape.lanes_in)
    return tirx.min(start, shape.blocks_in - shape.reach)


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains the template and whatever elementwise work was fused behind it."""
    sch = s_tir.Schedule(function)
    sums = find(sch, _TILE)
    if sums is None:
        return None
    wide, deep, flat, share = annotation_of(sch, sums, _TILE)
    result = inline_epilogue(sch, sums)
    if flat:
        merge_axes(sch, result, 2, 2)
        # Sizes of tiles are derived from how their places are written: rows and columns apart would hide them.
        sch = s_tir.Schedule(s_tir.transform.StmtSimplify()(sch.mod))
        sums, result = find(sch, _TILE), blocks_of(sch)[-1]
    if not share:
        rows = _by_tiles(sch, sums, result, wide, deep, target)
        pad = named(sch, "pad")
        by_rows = pad is not None and bool(sch.get(pad).annotations[_BY_ROWS])
        schedule_pad(sch, rows if by_rows else None)
        return sch
    _by_shares(sch, sums, result, wide, deep, share)
    schedule_pad(sch)
    return _with_prefetch(sch, sums, deep, share)


def _by_tiles(
    sch: s_tir.Schedule, sums: Block, result: Block, wide: int, deep: int, target: Target
) -> s_tir.schedule.LoopRV:
    """One tile after the other, each through the whole reduction; returns the loop over rows of them."""
    n, o, *rows, x, lane = sch.get_loops(result)
    outer, inner = sch.split(o, [None, deep])
    tile, column = sch.split(x, [None, wide])
    sch.reorder(n, outer, *rows, tile, inner, column, lane)
    if not rows:
        part, tile = split_for_threads(sch, tile, extent(sch, n) * extent(sch, outer))
        rows = [part]
    piece = sch.fuse(n, outer, *rows)
    sch.parallel(piece)
    vectorize(sch, lane)
    unroll(sch, inner, column)
    sch.set_scope(sums, 0, "local")
    sch.compute_at(sums, tile, preserve_unit_loops=True)
    *_, ky, kx, lane_in = loops = sch.get_loops(sums)[: _KY + 3]
    # A value of the input is used for all output blocks at once: else those of all columns would wait in registers.
    sch.reorder(loops[_COLUMN], loops[_MEMBER])
    # Of a plain input with few channels the taps are unrolled, if the code for them stays small.
    few = extent(sch, lane_in) == 1 and extent(sch, ky) * extent(sch, kx) <= _UNROLLED_TAPS
    if takes_bytes(sch, sums):
        accumulate_dots(sch, sums, outer=2, spatial=7, unrolled=3 if few else 1, instruction=target.dots)
    else:
        accumulate(sch, sums, outer=2, spatial=7, unrolled=3 if few else 1)
    return piece


def _by_shares(
    sch: s_tir.Schedule,
    sums: s_tir.schedule.SBlockRV,
    result: s_tir.schedule.SBlockRV,
    wide: int,
    deep: int,
    share: int,
) -> None:
    """A share of the reduction for all tiles of a piece, then the next share: for weights that fit into no cache.

    So a weight comes from memory once and is used for the whole piece while it is near, and memory delivers at an even
    pace. The sums of a piece wait in the first-level cache.
    """
    n, o, *rows, x, lane = sch.get_loops(result)
    outer, inner = sch.split(o, [None, deep])
    tile, column = sch.split(x, [None, wide])
    lines, line_size = (rows[0], extent(sch, tile) * wide) if rows else (tile, wide)
    count = extent(sch, lines)
    fitting = max(1, _PIECE // (line_size * deep * extent(sch, lane) * 4))
    pieces, line = sch.split(lines, [None, max(n for n in range(1, count + 1) if count % n == 0 and n <= fitting)])
    sch.reorder(n, outer, pieces, inner, line, *([tile] if rows else []), column, lane)
    piece = sch.fuse(n, outer, pieces)
    sch.parallel(piece)
    vectorize(sch, lane)
    unroll(sch, column)
    sch.set_scope(sums, 0, "local")
    sch.compute_at(sums, piece, preserve_unit_loops=True)
    n, group, o, y, t, r, lane, block, ky, kx, lane_in = sch.get_loops(sums)[1:]
    part, block = sch.split(block, [None, share])
    sch.reorder(n, group, part, y, t, block, ky, kx, lane_in, o, r, lane)
    vectorize(sch, lane)
    unroll(sch, lane_in, o, r)
    vectorize(sch, sch.get_loops(sch.decompose_reduction(sums, part))[-1])


def _with_prefetch(sch: s_tir.Schedule, sums: Block, deep: int, share: int) -> s_tir.Schedule:
    """While a share of the weights is used for one tile after the other, each tile asks for its portion of the next."""
    function = sch.mod["main"]
    weight = next(p for p in function.params if len(p.ty.shape) == 6)
    outputs, reach, _, _, lanes_in, lanes = (int(size) for size in weight.shape)
    piece, n, _, part, y, t, block, ky, kx, *_ = (sch.get(loop) for loop in sch.get_loops(sums))
    pieces = int(piece.extent) * deep // outputs
    if y.extent * t.extent > FEW_TILES:
        return sch
    tile = y.loop_var * t.extent + t.loop_var
    step = rows_per_line(lanes_in, lanes)
    narrow, high, wide, lines = lanes < NARROW, int(ky.extent), int(kx.extent), lanes_in // step
    each = share * high * wide * lines if narrow else lines
    portion = -(-deep * each // int(y.extent * t.extent))
    ahead = part.loop_var + 1
    over = ahead // part.extent
    first = piece.loop_var // pieces * deep + over * deep
    places = []
    for number in range(portion):
        row = tirx.min(tile * portion + number, deep * each - 1)
        tap = row % each // lines
        inside = (tap // (high * wide), tap // wide % high, tap % wide) if narrow else (block, ky, kx)
        shift, *taps = inside if narrow else (loop.loop_var for loop in inside)
        output = tirx.min(first + row // each, outputs - 1)
        places.append((output, (ahead - over * part.extent) * share + shift, *taps, row % lines * step, 0))
    return s_tir.Schedule(ask(function, (t if narrow else kx).loop_var, weight, places))
