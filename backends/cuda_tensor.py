"""A schedule for products on tensor cores: every warp multiplies fragments of 16 times 16 numbers.

Half numbers, or float32 numbers that are rounded to TensorFloat-32, are multiplied; sums are float32.
"""

from functools import partial

from tvm import tirx

from .cuda_fragments import DEPTH, SHARED, SIDE, operations, scope_of
from .cuda_gemm import (
    Block,
    Loop,
    Product,
    Schedule,
    add_shares,
    fetch,
    find_product,
    inline_after,
    inline_before,
    normalised,
    shared_out,
    stored_at_once,
    tile_loops,
)
from .cuda_tiles import SHARED as SHARED_LIMIT
from .cuda_tiles import TENSOR, Tile, choose, multiprocessors_of
from .schedules import Rule
from .targets import Target

_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "tf32": "float32"}
# Products that are smaller in some direction leave most of a fragment empty.
_LEAST = 8
# Rows in shared memory start at multiples of 16 bytes, in other banks than their neighbours.
_PADDING = 8


def rule(precision: str) -> Rule:
    """The rule for products of the numbers of a precision: `fp16`, `bf16` or `tf32`."""

    def schedule(function: tirx.PrimFunc, target: Target) -> Schedule | None:
        return _schedule(function, target, _DTYPES[precision])

    schedule.__module__ = __name__
    return schedule


def _schedule(function: tirx.PrimFunc, target: Target, dtype: str) -> Schedule | None:
    """Schedule a kernel with one sum of products of such numbers; None for any other kernel."""
    found = find_product(function)
    if found is None:
        return None
    plan, block = found
    product = normalised(plan, block)
    if product is None or {product.left.dtype, product.right.dtype} != {dtype} or product.dtype != "float32":
        return None
    if min(product.rows, product.columns, product.inner) < _LEAST:
        return None
    room = partial(shared_bytes, width=4 if dtype == "float32" else 2)
    tile = choose(product, [tile for tile in TENSOR if room(tile) <= SHARED_LIMIT], multiprocessors_of(target.device))
    multiplied = shared_out(plan, block, tile)
    _tile(plan, multiplied, product, tile, dtype, stored_at_once(function))
    if tile.shares > 1:
        add_shares(plan, block)
    return plan


def shared_bytes(tile: Tile, width: int) -> int:
    """Bytes of shared memory for a tile of both factors, of `width` bytes each number, and one of results."""
    factors = tile.rows * (tile.inner + _PADDING) + tile.inner * (tile.columns + _PADDING)
    return factors * width + tile.rows * (tile.columns + _PADDING) * 4


def _tile(schedule: Schedule, block: Block, product: Product, tile: Tile, dtype: str, stored: int) -> None:
    batch, *loops = tile_loops(schedule, block)
    (row, own_row), (column, own_column), (inner, own_inner) = (
        schedule.split(loop, [None, size]) for loop, size in zip(loops, (SIDE, SIDE, DEPTH), strict=True)
    )
    schedule.reorder(row, column, inner, own_row, own_column, own_inner)
    fragment, block = block, schedule.blockize(own_row)
    down, across = tile.parts
    rows, warp_down, rows_in_warp = schedule.split(row, [None, down, tile.down // SIDE])
    columns, warp_across, columns_in_warp = schedule.split(column, [None, across, tile.across // SIDE])
    steps, step = schedule.split(inner, [None, tile.inner // DEPTH])
    schedule.reorder(batch, rows, columns, warp_down, warp_across, steps, step, rows_in_warp, columns_in_warp)
    schedule.bind(schedule.fuse(batch, rows, columns), "blockIdx.x")
    warp = schedule.fuse(warp_down, warp_across)
    schedule.bind(warp, "threadIdx.y")

    threads = [("threadIdx.y", down * across), ("threadIdx.x", 32)]
    left = fetch(schedule, block, product.left, steps, SHARED, threads, last_is_inner=True)
    right = fetch(schedule, block, product.right, steps, SHARED, threads, last_is_inner=False)
    for load in (left, right):
        schedule.storage_align(load, 0, axis=-2, factor=16, offset=_PADDING)
    fragments = [
        schedule.cache_read(block, operand.read, scope_of(side, dtype))
        for operand, side in ((product.left, "a"), (product.right, "b"))
    ]
    for piece in fragments:
        schedule.compute_at(piece, step)
    store = schedule.cache_write(block, 0, SHARED)
    sums = schedule.cache_write(block, 0, "wmma.accumulator")
    schedule.storage_align(sums, 0, axis=-2, factor=16, offset=_PADDING)
    for piece in (sums, store):
        schedule.reverse_compute_at(piece, warp, preserve_unit_loops=True)
    start = schedule.decompose_reduction(block, steps)

    _tensorize(schedule, (*fragments, sums), start, fragment, operations(dtype), bool(product.left.read))
    for loop in (step, rows_in_warp, columns_in_warp):
        schedule.unroll(loop)

    inline_before(schedule, [left, right])
    if tile.shares == 1:
        inline_after(schedule, store)
    fused = schedule.fuse(*schedule.get_loops(store)[-2:])
    _, lane, vector = schedule.split(fused, [None, 32, stored])
    schedule.bind(lane, "threadIdx.x")
    schedule.vectorize(vector)


def _tensorize(
    schedule: Schedule, copies: tuple[Block, ...], start: Block, product: Block, names: dict[str, str], swapped: bool
) -> None:
    """Put the operations on fragments in the place of the loops that they stand for."""
    for piece, name in zip(copies, ("load_a", "load_b", "store"), strict=True):
        schedule.tensorize(_tiled(schedule, piece, (SIDE, SIDE)), names[name])
    schedule.tensorize(schedule.get_loops(schedule.get_child_blocks(start)[0])[-2], names["init"])
    schedule.tensorize(schedule.get_loops(product)[-3], names["multiply_swapped" if swapped else "multiply"])


def _tiled(schedule: Schedule, block: Block, extents: tuple[int, int]) -> Loop:
    """The loop that starts one fragment of a block that copies fragments."""
    first, second = schedule.get_loops(block)[-2:]
    outer, inner = schedule.split(first, [None, extents[0]])
    outer_second, inner_second = schedule.split(second, [None, extents[1]])
    schedule.reorder(outer, outer_second, inner, inner_second)
    schedule.unroll(outer)
    schedule.unroll(outer_second)
    return inner
