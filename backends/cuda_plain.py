"""A schedule for products without tensor cores: tiles in shared memory, the results of a thread in registers."""

from tvm import tirx

from .cuda_gemm import (
    Block,
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
from .cuda_tiles import PLAIN, Tile, choose, multiprocessors_of
from .targets import Target

# Numbers that a thread reads from shared memory, and stores, at once.
_VECTOR = 4


def schedule(function: tirx.PrimFunc, target: Target) -> Schedule | None:
    """Schedule a kernel with one sum of products; None for any other kernel."""
    found = find_product(function)
    if found is None:
        return None
    plan, block = found
    product = normalised(plan, block)
    if product is None:
        return None
    tile = choose(product, PLAIN, multiprocessors_of(target.device))
    multiplied = shared_out(plan, block, tile)
    _tile(plan, multiplied, product, tile, stored_at_once(function))
    if tile.shares > 1:
        add_shares(plan, block)
    return plan


def _tile(schedule: Schedule, block: Block, product: Product, tile: Tile, stored: int) -> None:
    batch, row, column, inner = tile_loops(schedule, block)
    down, across = tile.parts
    rows, thread_down, own_rows = schedule.split(row, [None, down, tile.down])
    columns, thread_across, own_columns = schedule.split(column, [None, across, tile.across])
    steps, step = schedule.split(inner, [None, tile.inner])
    schedule.reorder(batch, rows, columns, thread_down, thread_across, steps, step, own_rows, own_columns)
    schedule.bind(schedule.fuse(batch, rows, columns), "blockIdx.x")
    thread = schedule.fuse(thread_down, thread_across)
    schedule.bind(thread, "threadIdx.x")

    store = schedule.cache_write(block, 0, "local")
    schedule.reverse_compute_at(store, thread, preserve_unit_loops=True)
    threads = [("threadIdx.x", down * across)]
    left = fetch(schedule, block, product.left, steps, "shared", threads, last_is_inner=True)
    right = fetch(schedule, block, product.right, steps, "shared", threads, last_is_inner=False)
    # Tiles of A lie transposed, so that a thread reads its rows at once; the padding spreads stores over memory banks.
    schedule.transform_layout(left, ("write", 0), lambda s, i, k: (s, k, i))
    schedule.storage_align(left, 0, axis=-2, factor=32, offset=_VECTOR)
    for operand in (product.left, product.right):
        registers = schedule.cache_read(block, operand.read, "local")
        schedule.compute_at(registers, step, preserve_unit_loops=True)
        schedule.vectorize(schedule.split(schedule.get_loops(registers)[-1], [None, _VECTOR])[1])
    for loop in (step, own_rows, own_columns):
        schedule.unroll(loop)
    inline_before(schedule, [left, right])
    if tile.shares == 1:
        inline_after(schedule, store)
    schedule.vectorize(schedule.split(schedule.get_loops(store)[-1], [None, stored])[1])
    schedule.decompose_reduction(block, steps)
