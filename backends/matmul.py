"""Matrix products: constant weights are packed at compile time, other operands on the fly.

The result is computed in tiles of a few rows by a few vectors that stay in registers. Rows and columns that do
not fill a tile are computed from zeros or from the last row and dropped.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import s_tir, te, tirx

from .prefetching import prefetch_panels
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
    split_for_threads,
    unroll,
    vectorize,
)

_TILE = "graphprune.matmul"
# What a processor's second-level cache holds of the left operand, and of the next panel of weights.
_CACHE, _PANEL = 2 << 20, 256 << 10


@dataclass(frozen=True)
class MatMul:
    """`batch` independent products of `(rows, inner)` and `(inner, columns)`."""

    batch: int
    rows: int
    inner: int
    columns: int
    lanes: int
    registers: int

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and column blocks per register tile."""
        if self.rows == 1:
            return 1, min(8, -(-self.columns // self.lanes))
        if self.registers >= 16 and self.rows * self.inner * 4 > _CACHE and self.columns >= 4 * self.lanes:
            # The rows do not stay in the cache: a tile of more columns reads them less often.
            return 6, 4
        rows = register_tile(self.rows, 2, self.registers).width
        return rows, min(max(1, self.registers // rows), -(-self.columns // self.lanes))

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
    k = te.reduce_axis((0, shape.inner), "k")

    def term(b, t, o, r, lane):
        row = t * high + r
        row = row if tiles * high == shape.rows else tirx.min(row, shape.rows - 1)
        where = _split(row, rows_of) if packed else [*_split(b, lead[:-1]), row]
        right = blocks[o, k, lane] if packed else blocks[b, o, k, lane]
        return te.sum(data(*where, k) * right, axis=[k])

    size = (shape.batch, tiles, shape.blocks, high, shape.lanes)
    sums = te.compute(size, term, name="matmul", attrs={_TILE: [high, deep, len(lead) - len(rows_of)]})

    def result(*index):
        *leading, column = index
        batch = 0 if packed else _join(leading[:-1], lead[:-1])
        row = _join(leading, lead) if packed else leading[-1]
        return sums[batch, row // high, column // shape.lanes, row % high, column % shape.lanes]

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
    high, deep, batches = annotation_of(sch, sums, _TILE)
    lanes = int(sch.get(sch.get_loops(sums)[4]).extent)
    result = inline_epilogue(sch, sums)
    merge_axes(sch, result, batches, len(sch.get_loops(result)) - batches - 1)
    *batch, row, columns = sch.get_loops(result)
    tile, inner_row = sch.split(row, [None, high])
    block, inner_block, lane = sch.split(columns, [None, deep, lanes])
    sch.reorder(*batch, block, tile, inner_block, inner_row, lane)
    others = prod(extent(sch, loop) for loop in (*batch, block))
    part, tile = split_for_threads(sch, tile, others)
    panels, parts = extent(sch, block), extent(sch, part)
    sch.parallel(sch.fuse(*batch, block, part))
    vectorize(sch, lane)
    unroll(sch, inner_block, inner_row)
    sch.set_scope(sums, 0, "local")
    sch.compute_at(sums, tile, preserve_unit_loops=True)
    *_, k = sch.get_loops(sums)
    inner = extent(sch, k)
    sch.split(k, [None, 8])
    accumulate(sch, sums, outer=2, spatial=5, unrolled=1)
    pack = named(sch, "pack_columns")
    if pack is None and panels > 1 and deep * inner * lanes * 4 <= _PANEL:
        weights = next(read.source for read in sch.get(sums).reads if len(read.region) == 3)
        return s_tir.Schedule(prefetch_panels(sch.mod["main"], weights, deep, deep * inner * lanes * 4, parts))
    if pack is not None:
        b, o, _, lane = sch.get_loops(pack)
        vectorize(sch, lane)
        sch.parallel(sch.fuse(b, o))
    return sch
