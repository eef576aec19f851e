"""Products with weights that are mostly zero: the computation over lists of what is not, and its schedule.

For every vector of outputs (`tiles`: a weight stands for as many outputs as a vector has lanes and one input) or for
every single output (`single`: vectors run over pixels or rows, as in Elsen et al., "Fast Sparse ConvNets", 2020) there
is a list of the inputs that count: where each lies, relative to the pixel at hand, and its weights. Lists lie one after
the other. Where an input is looked up makes no difference to the loop, so that one template serves products of matrices
and convolutions of any kernel.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from tvm import s_tir, te, tirx

from .cores import SERVER, Core
from .halving import widened
from .prefetch import with_extent
from .targets import Target
from .tiling import (
    accumulate,
    annotation_of,
    blocks_of,
    extent,
    find,
    inline_epilogue,
    merge_axes,
    named,
    register_tiles,
    unroll,
    vectorize,
)

_TILE = "graphprune.sparse"
_WIDEST = 8
# Cycles that a list takes beside its entries, in those that an entry for one vector of sums takes.
_LIST = 12


@dataclass(frozen=True)
class Sparse:
    """The numbers of one sparse product.

    `kind` is "tiles" or "single". The data are `batch` flat arrays of `size` numbers; a pixel in row `y` and column `x`
    of the `rows` by `columns` pixels of the result begins at `y * step[0] + x * step[1]`. There are `lists` lists with
    `entries` entries in all and at most `longest` in one. `lanes` is the width of the vectors, which run over outputs
    ("tiles") or columns ("single", where `step[1]` is 1). `chosen` is the `choice` to take.
    """

    kind: str
    batch: int
    size: int
    rows: int
    columns: int
    step: tuple[int, int]
    lists: int
    entries: int
    longest: int
    lanes: int
    registers: int
    weights: str = "float32"
    chosen: tuple[int, int, int] | None = None
    core: Core = field(default=SERVER, repr=False)

    @property
    def choice(self) -> tuple[int, int, int]:
        """What may be chosen: vectors over outputs or not, how many per tile, whether tiles are the outer loop."""
        wide = self._widths[0]
        several = self.batch * self.rows * self._tiles(wide) > 1
        return self.chosen or (int(self.kind == "tiles"), wide, int(several))

    @property
    def wide(self) -> int:
        """Vectors of sums per tile."""
        return self.choice[1]

    @property
    def macs(self) -> int:
        """Multiply-adds, those of empty lanes included."""
        return self.batch * self.rows * self.tiles * self.wide * self.entries * self.lanes

    @property
    def cost(self) -> float:
        """Multiply-adds of a dense kernel that take as long."""
        wide, tiles = self.wide, self.batch * self.rows * self.tiles
        # An entry takes as long as three vectors of sums, one of which it hides.
        entries = self.entries * max(wide + 1, 4) if self.lanes > 1 else 8 * self.entries
        if self.kind == "single":
            entries *= 2.1
        return float(tiles * self.lanes * (entries + self.lists * (_LIST + wide)))

    @property
    def tiles(self) -> int:
        """Tiles in one row of pixels."""
        return self._tiles(self.wide)

    @property
    def spanned(self) -> int:
        """Columns that the tiles of a row span."""
        return self.tiles * self.wide * (self.lanes if self.kind == "single" else 1)

    def candidates(self) -> "list[Sparse]":
        """This product with every choice, the most promising first."""
        vectors, _, several = self.choice
        orders = (1, 0) if several else (0,)
        return [replace(self, chosen=(vectors, wide, order)) for wide in self._widths for order in orders]

    def some_table(self) -> np.ndarray:
        """Lists of these sizes with any places, to measure with."""
        starts = np.linspace(0, self.entries, self.lists + 1).astype(int)
        reach = max(self.size - (self.rows - 1) * self.step[0] - self.spanned * self.step[1], 1)
        places = np.random.default_rng(0).integers(0, reach, self.entries)
        return np.concatenate([starts, np.sort(places)]).astype("int32")

    def _tiles(self, wide: int) -> int:
        return -(-self.columns // (wide * (self.lanes if self.kind == "single" else 1)))

    @property
    def _widths(self) -> list[int]:
        if self.kind == "tiles":
            tiles = register_tiles(self.columns, 1, self.registers - 2, core=self.core)
            return [tile.width for tile in tiles][:4]
        return single_widths(self.columns, self.lanes)


def single_widths(columns: int, lanes: int) -> list[int]:
    """Vectors of columns per tile, the most promising first; all of them span as many columns as the first."""
    vectors = -(-columns // lanes)

    def spanned(wide: int) -> int:
        return -(-vectors // wide) * wide

    widths = sorted(range(1, min(vectors, _WIDEST) + 1), key=lambda wide: spanned(wide) * (1 + 1.5 / wide))
    return [wide for wide in widths if spanned(wide) == spanned(widths[0])]


def single_span(columns: int, lanes: int) -> int:
    """Columns that tiles of these widths span."""
    wide = single_widths(columns, lanes)[0] * lanes
    return -(-columns // wide) * wide


class Lists(NamedTuple):
    """The lists of a weight: where each begins, for every entry where its input lies, and its weights."""

    starts: np.ndarray
    places: np.ndarray
    weights: np.ndarray

    @property
    def longest(self) -> int:
        """Entries of the longest list."""
        return int(np.diff(self.starts).max())

    @property
    def table(self) -> np.ndarray:
        """Beginnings, then places, as one int32 array."""
        return np.concatenate([self.starts, self.places]).astype("int32")


def lists_of(weight: np.ndarray, places: np.ndarray, lanes: int) -> Lists:
    """The lists of a weight `(outputs, inputs)` whose inputs lie at `places`, for vectors of `lanes` outputs.

    ```python
    weight = np.array([[0.0, 2.0], [0.0, 3.0]])
    lists_of(weight, np.array([0, 7]), lanes=2).places    # [7]
    ```
    """
    outputs, inputs = weight.shape
    rows = np.zeros((-(-outputs // lanes) * lanes, inputs), weight.dtype)
    rows[:outputs] = weight
    groups = rows.reshape(-1, lanes, inputs)
    kept = (groups != 0).any(axis=1)
    row, column = np.nonzero(kept)
    starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    weights = groups[row, :, column] if lanes > 1 else groups[row, 0, column]
    if not row.size:  # a table needs an entry, which no list reads
        column, weights = np.zeros(1, int), np.zeros((1, lanes)[: 1 + (lanes > 1)], weight.dtype)
    return Lists(starts, places[column], np.ascontiguousarray(weights))


def compute(shape: Sparse, data: te.Tensor, weight: te.Tensor, table: te.Tensor, out: tuple[int, ...]) -> te.Tensor:
    """The product as an expression.

    `out` is `(pixels, outputs)`, or `(batch, vectors, height, width, lanes)` of a blocked image; of a "single" one
    `(batch, outputs, height, width)`, whose pixels are the columns and, where there are more, those that tiles span
    beyond them.
    """
    vectors, wide, order = shape.choice
    entry = te.reduce_axis((0, max(shape.longest, 1)), "entry")
    lanes = shape.lanes

    def term(n, o, y, t, r, lane):
        place = table(o) + entry
        column = t * wide + r if vectors else (t * wide + r) * lanes + lane
        if vectors and shape.spanned != shape.columns:
            column = tirx.min(column, shape.columns - 1)
        read = data(n, y * shape.step[0] + column * shape.step[1] + table(shape.lists + 1 + place))
        factor = widened(weight, place, lane) if vectors else widened(weight, place)
        return te.sum(read * factor, axis=[entry])

    size = (shape.batch, shape.lists, shape.rows, shape.tiles, wide, lanes)
    sums = te.compute(size, term, name="sparse", attrs={_TILE: [vectors, wide, order]})

    def result(*index):
        if len(out) == 2:
            pixel, output = index
            return sums[0, output // lanes, 0, pixel // wide, pixel % wide, output % lanes]
        if vectors:
            n, o, y, x, lane = index
            y, x = (0, y * out[3] + x) if shape.rows == 1 else (y, x)
            return sums[n, o, y, x // wide, x % wide, lane]
        n, o, y, x = index
        x = y * out[3] + x
        return sums[n, o, 0, x // (wide * lanes), x // lanes % wide, x % lanes]

    return te.compute(out, result, name="untile")


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains the template and whatever elementwise work was fused behind it."""
    sch = s_tir.Schedule(function)
    sums = find(sch, _TILE)
    if sums is None:
        return None
    vectors, wide, order = annotation_of(sch, sums, _TILE)
    lanes, rows = (extent(sch, sch.get_loops(sums)[place]) for place in (5, 2))
    result = inline_epilogue(sch, sums)
    if rows == 1 and len(sch.get_loops(result)) > 2:
        merge_axes(sch, result, 2, 2)
        # Sizes of tiles are derived from how their places are written: rows and columns apart would hide them.
        sch = s_tir.Schedule(s_tir.transform.StmtSimplify()(sch.mod))
        sums, result = find(sch, _TILE), blocks_of(sch)[-1]
    loops = sch.get_loops(result)
    if len(loops) == 2:
        pixel, output = loops
        o, lane = sch.split(output, [None, lanes])
        before: list = []
    elif vectors:
        n, o, *row, pixel, lane = loops
        before = [n, *row]
    else:
        n, o, pixel = loops
        before = [n]
    if vectors:
        tile, column = sch.split(pixel, [None, wide])
    else:
        tile, column, lane = sch.split(pixel, [None, wide, lanes])
    before.append(tile)
    sch.reorder(*([*before, o] if order else [o, *before]), column, lane)
    outer = sch.fuse(*before) if order else o
    sch.parallel(outer)
    vectorize(sch, lane)
    unroll(sch, column)
    inner = o if order else before[-1]
    sch.set_scope(sums, 0, "local")
    sch.compute_at(sums, inner, preserve_unit_loops=True)
    above = 2 if order else 1 + len(before)
    accumulate(sch, sums, outer=above, spatial=6, unrolled=0)
    return _as_long_as_needed(sch, above, sch.get(o).loop_var)


def turn(matrix: te.Tensor, rows: int) -> te.Tensor:
    """A matrix with its axes exchanged: `rows` of its columns, or of what is beyond them, zeros."""
    height, width = (int(extent) for extent in matrix.shape)

    def value(column, row):
        if rows <= height:
            return matrix(row, column)
        read = matrix(tirx.min(row, height - 1), column)
        return tirx.if_then_else(row < height, read, tirx.const(0, matrix.dtype))

    return te.compute((width, rows), value, name="turn")


def turn_back(planes: te.Tensor, rows: int) -> te.Tensor:
    """The first `rows` columns of a matrix as rows."""
    size = (rows, int(planes.shape[0]))
    return te.compute(size, lambda row, column: planes(column, row), name="turn")


def _as_long_as_needed(sch: s_tir.Schedule, above: int, number: tirx.Var) -> s_tir.Schedule:
    """The loop over entries runs as long as the list at hand, not as the longest one."""
    update = named(sch, "sparse_update")
    loop = sch.get(sch.get_loops(update)[above])
    table = next(region.source for region in sch.get(update).reads if str(region.source.dtype) == "int32")

    def begin(place):
        return tirx.Cast("int64", tirx.BufferLoad(table, [place]))

    return s_tir.Schedule(with_extent(sch.mod["main"], loop.loop_var, begin(number + 1) - begin(number)))
