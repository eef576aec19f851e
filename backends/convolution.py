"""Convolution in the blocked layout: the computation, its packed weights, and its schedule.

One template covers any kernel, stride, dilation, padding and number of groups. Columns of the output are
computed in tiles that stay in registers; the tile may be larger than what is left of a row, in which case the
padded input supplies zeros and the surplus columns are dropped.
"""

from dataclasses import dataclass

import numpy as np
from tvm import s_tir, te, tirx

from .layout import positions
from .targets import Target
from .tiling import (
    Tile,
    accumulate,
    annotation_of,
    extent,
    find,
    inline_epilogue,
    merge_axes,
    register_tile,
    schedule_pad,
    split_for_threads,
    unroll,
    vectorize,
)

_TILE = "graphprune.convolution"
_UNROLLED_TAPS = 64


@dataclass(frozen=True)
class Convolution:
    """The numbers that make one convolution kernel different from another.

    `lanes_in` is 1 for a plain input `(batch, channels, height, width)`, the vector width for a blocked one.
    `reach` is the number of input blocks that one output block reads; `grouped` tells that they start at a
    different block for each output block.
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
        if self.kernel != (1, 1) or self.stride != (1, 1) or any(self.padding):
            return False
        return self._flat_tile.cost <= self._row_tile.cost * 1.1

    @property
    def tile(self) -> Tile:
        """Columns and output blocks per register tile."""
        return self._flat_tile if self.flat else self._row_tile

    @property
    def _depth(self) -> int:
        return 1 if self.grouped else self.blocks_out

    @property
    def _flat_tile(self) -> Tile:
        rows, columns = self.out_size
        return register_tile(rows * columns, self._depth, self.registers, exact=True)

    @property
    def _row_tile(self) -> Tile:
        return register_tile(self.out_size[1], self._depth, self.registers)


def pack_weights(weight: np.ndarray, groups: int, segments_in: tuple[int, ...], lanes_in: int, lanes: int) -> tuple:
    """Arrange weights `(out, in / groups, kh, kw)` for the template, with zeros in empty lanes.

    Returns the packed weights `(blocks_out, reach, kh, kw, lanes_in, lanes)` and, per output block, the first
    input block it reads.
    """
    out, per_group, *kernel = weight.shape
    place = positions(segments_in, lanes_in)
    blocks_in, blocks_out = int(place[-1]) // lanes_in + 1, -(-out // lanes)
    group = np.arange(out) // (out // groups)
    channels = group[:, None] * per_group + np.arange(per_group)[None, :]
    places = place[channels]
    first = np.array([places[b * lanes : (b + 1) * lanes].min() // lanes_in for b in range(blocks_out)])
    last = np.array([places[b * lanes : (b + 1) * lanes].max() // lanes_in for b in range(blocks_out)])
    reach = int((last - first).max()) + 1
    first = np.minimum(first, blocks_in - reach)
    packed = np.zeros((blocks_out, reach, *kernel, lanes_in, lanes), weight.dtype)
    block = np.arange(out) // lanes
    local = places - first[block][:, None] * lanes_in
    index = (
        block[:, None],
        local // lanes_in,
        slice(None),
        slice(None),
        local % lanes_in,
        (np.arange(out) % lanes)[:, None],
    )
    packed[index] = weight
    return packed, first.astype("int32")


def _pad(data: te.Tensor, size: tuple[int, int], shape: Convolution) -> te.Tensor:
    """The input with its border of zeros, `(batch, blocks, height, width, lanes)`."""
    top, left, _, _ = shape.padding
    plain = len(data.shape) == 4

    def value(n, c, y, x, lane):
        inside = tirx.all(y >= top, y < shape.height + top, x >= left, x < shape.width + left)
        read = data(n, c, y - top, x - left) if plain else data(n, c, y - top, x - left, lane)
        return tirx.if_then_else(inside, read, tirx.const(0, data.dtype))

    return te.compute((shape.batch, shape.blocks_in, *size, shape.lanes_in), value, name="pad")


def compute(shape: Convolution, data: te.Tensor, weight: te.Tensor, first: te.Tensor | None) -> te.Tensor:
    """The convolution as an expression, `(batch, blocks_out, out_height, out_width, lanes)`."""
    (rows, columns), (kh, kw), (sy, sx), (dy, dx) = shape.out_size, shape.kernel, shape.stride, shape.dilation
    wide, deep = shape.tile.width, shape.tile.depth
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
    lane_in = te.reduce_axis((0, shape.lanes_in), "lane_in")

    def term(n, o, y, t, r, lane):
        channel = first[o] + block if shape.grouped else block
        column = t * wide + r
        if shape.flat:
            pixel = (n, channel, column // shape.width, column % shape.width)
            read = source(*pixel) if len(data.shape) == 4 else source(*pixel, lane_in)
        else:
            read = source[n, channel, y * sy + ky * dy, column * sx + kx * dx, lane_in]
        return te.sum(read * weight[o, block, ky, kx, lane_in, lane], axis=[block, ky, kx, lane_in])

    size = (shape.batch, shape.blocks_out, row_count, tiles, wide, shape.lanes)
    sums = te.compute(size, term, name="convolution", attrs={_TILE: [wide, deep, int(shape.flat)]})

    def result(n, o, y, x, lane):
        row, column = (0, y * columns + x) if shape.flat else (y, x)
        return sums[n, o, row, column // wide, column % wide, lane]

    return te.compute((shape.batch, shape.blocks_out, rows, columns, shape.lanes), result, name="untile")


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains the template and whatever elementwise work was fused behind it."""
    sch = s_tir.Schedule(function)
    sums = find(sch, _TILE)
    if sums is None:
        return None
    wide, deep, flat = annotation_of(sch, sums, _TILE)
    result = inline_epilogue(sch, sums)
    if flat:
        merge_axes(sch, result, 2, 2)
    n, o, *rows, x, lane = sch.get_loops(result)
    outer, inner = sch.split(o, [None, deep])
    tile, column = sch.split(x, [None, wide])
    sch.reorder(n, outer, *rows, tile, inner, column, lane)
    if flat:
        part, tile = split_for_threads(sch, tile, extent(sch, n) * extent(sch, outer))
        rows = [part]
    sch.parallel(sch.fuse(n, outer, *rows))
    vectorize(sch, lane)
    unroll(sch, inner, column)
    sch.set_scope(sums, 0, "local")
    sch.compute_at(sums, tile, preserve_unit_loops=True)
    *_, ky, kx, lane_in = sch.get_loops(sums)
    # Of a plain input with few channels the taps are unrolled, if the code for them stays small.
    few = extent(sch, lane_in) == 1 and extent(sch, ky) * extent(sch, kx) <= _UNROLLED_TAPS
    accumulate(sch, sums, outer=2, spatial=6, unrolled=3 if few else 1)
    schedule_pad(sch, target)
    return sch
