"""3x3 convolution of stride 1 by the Winograd algorithm: fewer multiplications, paid with additions.

Tiles of `size` x `size` outputs are computed from `size + 2` x `size + 2` inputs. Tiles of inputs and weights are
transformed so that the convolution becomes one matrix product per transformed position; a last transform turns the
products into outputs. With size 2 this takes 2.25 times fewer multiplications, with size 4 four times fewer.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import log2, prod

import numpy as np
from tvm import s_tir, te, tirx

from .cores import SERVER, Core
from .layout import positions
from .prefetch import FEW_TILES, LARGE_WEIGHTS, NARROW, ask, rows_per_line
from .targets import Target
from .tiling import (
    annotation_of,
    efficiency,
    extent,
    fetching,
    find,
    inline_epilogue,
    named,
    partition,
    rate,
    unroll,
    vectorize,
)
from .winograd_transforms import KERNEL, input_row, output_row, transforms

_TILE = "graphprune.winograd"
# Per vector of a tile of inputs and of a tile of products, with its border, loads and stores: as measured on x86, in
# multiply-adds that the same time is enough for.
_INPUT_WORK, _OUTPUT_WORK = 14.0, 3.0
# Transformed inputs and products up to so many bytes are near. A byte of more takes so many cycles longer to write or
# read, for each time that they are twice as much.
_CLOSE, _FARTHER = 64_000, 0.024
# The share of the time to read weights that products do not hide.
_SEEN = 0.4
# Chunks that are too few to keep threads busy; bytes of weights that stay in the first-level cache, and the fewest
# input blocks for which it pays to write sums to memory and to read them again.
_FEW_CHUNKS, _NEAR, _FEWEST = 4, 24 << 10, 4
# TVM takes memory of so many bytes from the heap. With sums of the only tile of a chunk there, and weights fetched
# ahead in the same loop, the code generator spills registers: measured up to 1.8 times as slow.
_ON_STACK = 1024


@dataclass(frozen=True)
class Winograd:
    """The numbers of one kernel; `size` is the width of a tile of outputs.

    `chosen` is the plan to follow; None for the cheapest one.
    """

    batch: int
    blocks_in: int
    blocks_out: int
    lanes: int
    height: int
    width: int
    padding: tuple[int, int, int, int]
    size: int
    registers: int
    chosen: "Plan | None" = None
    core: Core = field(default=SERVER, repr=False)

    @property
    def choice(self) -> tuple[int, ...]:
        """What may be chosen, as numbers: the size of a tile and the plan."""
        plan = self.plan
        return self.size, plan.chunk, plan.high, plan.wide, plan.deep

    @property
    def macs(self) -> int:
        """Multiply-adds of the products."""
        channels = self.blocks_in * self.blocks_out * self.lanes**2
        return self.batch * prod(self.tiles) * self.span**2 * channels

    def candidates(self) -> "list[Winograd]":
        """This kernel with every plan, the most promising first."""
        return [replace(self, chosen=plan) for plan in sorted(_plans(self))]

    @property
    def span(self) -> int:
        """Width of a tile of inputs."""
        return self.size + KERNEL - 1

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        top, left, bottom, right = self.padding
        return self.height + top + bottom - KERNEL + 1, self.width + left + right - KERNEL + 1

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles of one image."""
        rows, columns = self.out_size
        return -(-rows // self.size), -(-columns // self.size)

    @cached_property
    def plan(self) -> "Plan":
        """The chosen or cheapest way to cut the work into chunks and tiles of registers."""
        return self.chosen or min(_plans(self))


@dataclass(frozen=True, order=True)
class Plan:
    """How the work is cut: `chunk` rows of tiles are transformed at once; a tile of accumulators takes `high` rows and
    `wide` columns of tiles and `deep` output blocks. `cycles` is what it may cost on one core.
    """

    cycles: float
    chunk: int
    high: int
    wide: int
    deep: int


def _plans(shape: Winograd) -> list[Plan]:
    """All ways to cut the work without a remainder inside a chunk."""
    rows, columns = shape.tiles
    plans = []
    for deep in range(1, min(shape.blocks_out, 6) + 1):
        for high, wide in product(range(1, min(rows, 4) + 1), _divisors(columns)):
            sums = high * wide * deep
            if sums <= shape.registers:
                plans += [
                    Plan(_cycles(shape, chunk, high, wide, deep), chunk, high, wide, deep)
                    for chunk in range(high, rows + high, high)
                    if chunk > high or wide < columns or sums * shape.lanes * 4 < _ON_STACK
                ]
    return plans


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _cycles(shape: Winograd, chunk: int, high: int, wide: int, deep: int) -> float:
    """What a plan costs: products, their weights, transforms, and how far away the values between these lie."""
    rows, columns = shape.tiles
    chunks, positions_ = -(-rows // chunk), shape.span**2
    tiles, vector, groups = shape.batch * chunks * chunk * columns, 4 * shape.lanes, -(-shape.blocks_out // deep)
    outputs = groups * deep
    products = tiles * positions_ * shape.blocks_in * outputs * shape.lanes / shape.core.products
    weights = positions_ * shape.blocks_in * outputs * shape.lanes * vector
    again = (shape.batch * chunks - 1) * weights / rate(weights, shape.core)
    between = positions_ * (shape.blocks_in + deep) * chunk * columns * vector
    away = _FARTHER * max(0.0, log2(between / _CLOSE))
    moved = tiles * positions_ * vector * away * (shape.blocks_in + 2 * outputs)
    passes = tiles * positions_ * (_INPUT_WORK * shape.blocks_in + _OUTPUT_WORK * outputs) / shape.core.products
    starts = shape.core.start * shape.batch * chunks * groups * positions_
    fetched = fetching(weights, products, shape.core) + _SEEN * again
    return products / efficiency(high * wide, deep, shape.core) + fetched + moved + passes + starts


def direct_cycles(shape: Winograd, weight_bytes: int = 4, inputs: int | None = None) -> float:
    """What the convolution costs without the algorithm, with weights of so many bytes each, for so many inputs."""
    products = KERNEL**2 * (inputs or shape.blocks_in * shape.lanes) * shape.blocks_out * shape.lanes
    weights = products * weight_bytes
    work = shape.batch * prod(shape.out_size) * products / (shape.core.products * shape.lanes)
    return work / shape.core.direct + fetching(weights, work, shape.core)


def pack_weights(weight: np.ndarray, segments_in: tuple[int, ...], shape: Winograd) -> np.ndarray:
    """Transformed weights `(blocks_out / deep, span, span, blocks_in, lanes, deep, lanes)`, zero in empty lanes."""
    _, matrix, _ = transforms(shape.size)
    deep, lanes = shape.plan.deep, shape.lanes
    outputs = -(-shape.blocks_out // deep) * deep
    moved = np.einsum("iy,ocyx,jx->ijoc", matrix, weight.astype(np.float64), matrix, optimize=True)
    span = shape.span
    places = np.zeros((span, span, outputs * lanes, shape.blocks_in * lanes), np.float32)
    places[:, :, np.arange(weight.shape[0])[:, None], positions(segments_in, lanes)[None, :]] = moved
    groups = places.reshape(span, span, outputs // deep, deep, lanes, shape.blocks_in, lanes)
    return np.ascontiguousarray(groups.transpose(2, 0, 1, 5, 6, 3, 4))


def _choose(index: tirx.Expr, cases: list[tirx.Expr]) -> tirx.Expr:
    """The case of this number; the loop over `index` is unrolled, and then nothing is left of the choice."""
    result = cases[-1]
    for number in reversed(range(len(cases) - 1)):
        result = tirx.Select(index == number, cases[number], result)
    return result


def compute(shape: Winograd, data: te.Tensor, weight: te.Tensor) -> te.Tensor:
    """The convolution as an expression, `(batch, blocks_out, out_height, out_width, lanes)`."""
    output, _, inputs = transforms(shape.size)
    (rows, columns), size, span, plan = shape.tiles, shape.size, shape.span, shape.plan
    deep, rows = plan.deep, -(-rows // plan.chunk) * plan.chunk
    top, left, _, _ = shape.padding
    lead = (shape.batch, shape.blocks_in)

    def border(n, c, y, x, lane):
        inside = tirx.all(y >= top, y < shape.height + top, x >= left, x < shape.width + left)
        return tirx.if_then_else(inside, data(n, c, y - top, x - left, lane), tirx.const(0, data.dtype))

    padded = te.compute((*lead, rows * size + 2, columns * size + 2, shape.lanes), border, name="pad")

    def down(n, c, t, u, i, j, lane):
        column = [padded(n, c, t * size + k, u * size + j, lane) for k in range(span)]
        return _choose(i, [input_row(row, column) for row in inputs])

    half = te.compute((*lead, rows, columns, span, span, shape.lanes), down, name="half_input")

    def along(i, j, n, c, t, u, lane):
        line = [half(n, c, t, u, i, k, lane) for k in range(span)]
        return _choose(j, [input_row(row, line) for row in inputs])

    moved = te.compute((span, span, *lead, rows, columns, shape.lanes), along, name="input")
    block, lane_in = te.reduce_axis((0, shape.blocks_in), "block"), te.reduce_axis((0, shape.lanes), "lane_in")
    products = te.compute(
        (shape.batch, -(-shape.blocks_out // deep), deep, span, span, rows, columns, shape.lanes),
        lambda n, group, member, i, j, t, u, lane: te.sum(
            moved(i, j, n, block, t, u, lane_in) * weight(group, i, j, block, lane_in, member, lane),
            axis=[block, lane_in],
        ),
        name="products",
        attrs={_TILE: list(shape.choice)},
    )

    def up(n, o, t, u, y, j, lane):
        column = [products(n, o // deep, o % deep, k, j, t, u, lane) for k in range(span)]
        return _choose(y, [output_row(row, column) for row in output])

    half_out = te.compute(
        (shape.batch, shape.blocks_out, rows, columns, size, span, shape.lanes), up, name="half_output"
    )

    def back(n, o, t, u, y, x, lane):
        line = [half_out(n, o, t, u, y, k, lane) for k in range(span)]
        return _choose(x, [output_row(row, line) for row in output])

    result = te.compute((shape.batch, shape.blocks_out, rows, columns, size, size, shape.lanes), back, name="output")
    return te.compute(
        (shape.batch, shape.blocks_out, *shape.out_size, shape.lanes),
        lambda n, o, y, x, lane: result(n, o, y // size, x // size, y % size, x % size, lane),
        name="untile",
    )


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains the template and whatever elementwise work was fused behind it."""
    sch = s_tir.Schedule(function)
    sums = find(sch, _TILE)
    if sums is None:
        return None
    size, rows, high, wide, deep = annotation_of(sch, sums, _TILE)
    result = inline_epilogue(sch, named(sch, "output"))
    n, o, y, x, lane = sch.get_loops(result)
    group, inner = sch.split(o, [None, deep])
    chunk, row, dy = sch.split(y, [None, rows, size])
    column, dx = sch.split(x, [None, size])
    sch.reorder(n, chunk, group, row, column, inner, dy, dx, lane)
    outer = sch.fuse(n, chunk)
    # Loops are marked before blocks move in: halos that chunks share would speak against it afterwards.
    few = extent(sch, outer) < _FEW_CHUNKS
    sch.parallel(group if few else outer)
    vectorize(sch, lane)
    unroll(sch, dy, dx)
    for name in ("output", "half_output"):
        block = named(sch, name)
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, inner, preserve_unit_loops=True)
        _unrolled(sch, block)
    sch.compute_at(sums, group, preserve_unit_loops=True)
    loops = _products(sch, sums, high, wide)
    _inputs(sch, outer, few)
    return _with_prefetch(sch, sums, loops)


def _inputs(sch: s_tir.Schedule, outer: s_tir.schedule.LoopRV, few: bool) -> None:
    """A chunk of rows is padded and transformed once for all output blocks."""
    moved, half, pad = named(sch, "input"), named(sch, "half_input"), named(sch, "pad")
    sch.compute_at(moved, outer, preserve_unit_loops=True)
    _, i, j, _, c, t, u, lane = sch.get_loops(moved)
    sch.reorder(c, t, u, i, j, lane)
    if few:
        sch.parallel(c)
    _unrolled(sch, moved)
    sch.set_scope(half, 0, "local")
    sch.compute_at(half, u, preserve_unit_loops=True)
    _unrolled(sch, half)
    sch.compute_at(pad, c, preserve_unit_loops=True)
    *_, column, lane = sch.get_loops(pad)
    vectorize(sch, lane)
    partition(sch, column)


def _unrolled(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """Vectorise the lanes of a transform and unroll the two loops over the positions of a tile."""
    *_, first, second, lane = sch.get_loops(block)
    vectorize(sch, lane)
    unroll(sch, first, second)


Loops = list[s_tir.schedule.LoopRV]


def _products(sch: s_tir.Schedule, sums: s_tir.schedule.SBlockRV, high: int, wide: int) -> Loops:
    """Sums stay in registers through all input blocks or, where the weights of these would not stay in the first-level
    cache from one tile to the next, through some of them for all tiles, then through the next ones.

    Returns the loops over parts of the input blocks, rows and columns of tiles, and the input blocks of a part.
    """
    *_, deep, _, _, rows, columns, lanes, blocks, lanes_in = (extent(sch, loop) for loop in sch.get_loops(sums))
    together = _together(blocks, 4 * lanes_in * deep * lanes, rows // high * (columns // wide))
    whole = together == blocks
    registers = sch.cache_write(sums, 0, "local") if whole else None
    *_, n, group, o, i, j, t, u, lane, block, lane_in = sch.get_loops(sums)
    t, inner_t = sch.split(t, [None, high])
    u, inner_u = sch.split(u, [None, wide])
    part, block = sch.split(block, [None, together])
    sch.reorder(n, group, i, j, *((t, u, part) if whole else (part, t, u)), block, lane_in, o, inner_t, inner_u, lane)
    vectorize(sch, lane)
    unroll(sch, lane_in, o, inner_t, inner_u)
    if registers is not None:
        sch.reverse_compute_at(registers, u, preserve_unit_loops=True)
        *_, deep_out, _, _, down, along, lane = sch.get_loops(registers)
        vectorize(sch, lane)
        unroll(sch, deep_out, down, along)
    vectorize(sch, sch.get_loops(sch.decompose_reduction(sums, part))[-1])
    return [part, t, u, block]


def _together(blocks: int, size: int, tiles: int) -> int:
    """How many input blocks, whose weights have `size` bytes each, are summed up for one tile before the next."""
    if tiles == 1 or blocks * size <= _NEAR:
        return blocks
    most = max((number for number in _divisors(blocks) if number * size <= _NEAR), default=1)
    return most if most >= _FEWEST else blocks


def _with_prefetch(sch: s_tir.Schedule, sums: s_tir.schedule.SBlockRV, loops: Loops) -> s_tir.Schedule:
    """While some weights are used for one tile after the other, each tile asks for its portion of those that follow."""
    function = sch.mod["main"]
    weight = next(p for p in function.params if len(p.ty.shape) == 7)
    groups, span, _, blocks, lanes_in, deep, lanes = (int(size) for size in weight.shape)
    _, group, _, _, i, j, *_ = (sch.get(loop) for loop in sch.get_loops(sums))
    part, t, u, block = map(sch.get, loops)
    tiles, rows = int(t.extent * u.extent), lanes_in * deep
    if tiles > FEW_TILES or groups * span**2 * blocks * rows * lanes * 4 < LARGE_WEIGHTS:
        return sch
    position = (group.loop_var * span + i.loop_var) * span + j.loop_var
    before = part.loop_var if int(part.extent) > 1 else 0  # else this loop may lie inside of the one that asks
    ahead = position * blocks + (before + 1) * block.extent
    narrow, step = lanes < NARROW, rows_per_line(rows, lanes)
    asked = rows * int(block.extent) if narrow else rows
    tile, portion = t.loop_var * u.extent + u.loop_var, -(-asked // (step * tiles))
    places = []
    for number in range(portion):
        row = tirx.min(tile * portion + number, asked // step - 1) * step
        shift = row // rows if narrow else block.loop_var
        number_of_block = tirx.min(ahead + shift, groups * span**2 * blocks - 1)
        places.append((0, 0, 0, number_of_block, row % rows // deep, row % deep, 0))
    return s_tir.Schedule(ask(function, (u if narrow else block).loop_var, weight, places))
