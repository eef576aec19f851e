"""Products on a GPU: any sum of products of two tensors (products, convolutions) as one matrix product in tiles.

`normalised` brings a kernel into the form `C[s, i, j] += A[s, i, k] * B[s, k, j]`, where `j` runs along the memory of
C. A convolution becomes one, too: `i` are its output channels, `j` its pixels and `k` what it sums over, gathered
while tiles are loaded (an implicit GEMM). Borders, and sizes that tiles do not divide, are read as zeros and not
written. Operators around the product are computed while it is loaded and stored.
"""

from collections.abc import Sequence
from math import gcd, prod

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.dlight.gpu.matmul import (
    IterKind,
    auto_inline_consumer_chain,
    auto_inline_producers,
    detect_iter_traits,
    get_reduction_blocks,
    make_iter_fusion_index_map,
)
from tvm.tirx.analysis import undefined_vars

from .cuda_tiles import Operand, Product, Tile

Schedule = s_tir.Schedule
Block, Loop = s_tir.schedule.SBlockRV, s_tir.schedule.LoopRV
# Loads of a thread that are under way at once.
_LOADS = 4
_S, _I, _J, _K = IterKind.kIter_S, IterKind.kIter_I, IterKind.kIter_J, IterKind.kIter_K


def find_product(function: tirx.PrimFunc) -> tuple[Schedule, Block] | None:
    """A schedule of the function and its only sum of products, or None where there is not exactly one."""
    schedule = Schedule(function)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    found = get_reduction_blocks(schedule, blocks)
    if not found or not _adds_products(schedule.get(found[0])):
        return None
    return schedule, found[0]


def _adds_products(block: s_tir.SBlock) -> bool:
    value = getattr(block.body, "value", None)
    if not isinstance(value, tirx.Add) or len(block.reads) != 2 or len(block.writes) != 1:
        return False
    factors = value.b
    while isinstance(factors, tirx.Cast):
        factors = factors.value
    return isinstance(factors, tirx.Mul)


def normalised(schedule: Schedule, block: Block) -> Product | None:
    """Rewrite the block to `C[s, i, j] += A[s, i, k] * B[s, k, j]`; None (and nothing done) where it has another form.

    Its read 0 is then A with axes `(s, i, k)`, its read 1 is B with axes `(s, k, j)`, or the other way round: the
    result says which.
    """
    before = schedule.get(block)
    traits = detect_iter_traits(before)
    if traits is None:
        return None
    kinds = {item.var: trait.kind for item, trait in zip(before.iter_vars, traits[3], strict=True)}
    extents = {item.var: int(item.dom.extent) for item in before.iter_vars}
    written = _fast_kind(before.writes[0], kinds)
    rows, columns = (_J, _I) if written == _I else (_I, _J)
    left, right = (1, 0) if written == _I else (0, 1)
    operands = [
        Operand(
            i,
            _fast_kind(before.reads[i], kinds) == _K,
            str(before.reads[i].source.dtype),
            _run(before.reads[i], kinds, extents),
        )
        for i in (left, right)
    ]
    stages = [schedule.reindex(block, ("read", index)) for index in range(2)]
    result = schedule.reindex(block, ("write", 0))
    traits = detect_iter_traits(schedule.get(block))
    orders = {left: [_S, rows, _K], right: [_S, _K, columns]}
    for index, stage in enumerate(stages):
        schedule.transform_layout(stage, ("write", 0), make_iter_fusion_index_map(traits[index], orders[index]))
    schedule.transform_layout(result, ("read", 0), make_iter_fusion_index_map(traits[2], [_S, rows, columns]))
    schedule.transform_block_layout(block, make_iter_fusion_index_map(traits[3], [_S, rows, columns, _K]))
    sizes = [int(item.dom.extent) for item in schedule.get(block).iter_vars]
    return Product(*sizes, *operands, str(before.writes[0].source.dtype))


def _fast_kind(region: tvm.ir.TensorRegion, kinds: dict[tirx.Var, IterKind]) -> IterKind:
    """Along which axis of the product the tensor is contiguous, or nearly."""
    for interval in reversed(list(region.region)):
        found = {kinds[variable] for variable in undefined_vars(interval.min) if variable in kinds} - {IterKind.kIter_T}
        if found:
            # A window slides along the pixels: those of its result, not the window, are neighbours in memory.
            return next(iter(found - {_K} or found))
    return _K


def _run(region: tvm.ir.TensorRegion, kinds: dict[tirx.Var, IterKind], extents: dict[tirx.Var, int]) -> int:
    """How many numbers along the fast axis lie side by side, for every start that is a multiple of it; 1 if none do."""
    fast = _fast_kind(region, kinds)
    own = [variable for variable in extents if kinds[variable] == fast]
    indices = [interval.min for interval in region.region]
    last = [index for index in indices if not isinstance(index, tirx.IntImm)][-len(own) :]
    in_order = len(last) == len(own) and all(a.same_as(b) for a, b in zip(last, own, strict=True))
    shape = [int(extent) for extent in region.source.shape]
    used = {index: extent for index, extent in zip(indices, shape, strict=True) if isinstance(index, tirx.Var)}
    if not in_order or any(used.get(variable) != extents[variable] for variable in own):
        return 1
    return prod(extents[variable] for variable in own)


def fetch(
    schedule: Schedule,
    block: Block,
    operand: Operand,
    place: Loop,
    scope: str,
    threads: Sequence[tuple[str, int]],
    last_is_inner: bool,
) -> Block:
    """Load a tile of a factor to shared memory inside `place`, neighbouring threads from neighbouring places.

    `threads` names the axes of a block of threads and their extents, the fastest last.
    """
    stage = schedule.cache_read(block, operand.read, scope)
    schedule.compute_at(stage, place, preserve_unit_loops=True)
    first, second = schedule.get_loops(stage)[-2:]
    if operand.inner_is_fast != last_is_inner:
        schedule.reorder(second, first)
    fused = schedule.fuse(*schedule.get_loops(stage)[-2:])
    steps, *own, vector = schedule.split(fused, [None, *(extent for _, extent in threads), vector_of(operand)])
    count = int(schedule.get(steps).extent)
    for (axis, _), loop in zip(threads, own, strict=True):
        schedule.bind(loop, axis)
    if operand.inner_is_fast == last_is_inner:
        schedule.vectorize(vector)
    # Several loads are under way at once; more of them would take registers from the sums.
    schedule.unroll(schedule.split(steps, [None, gcd(count, _LOADS)])[1])
    return stage


def vector_of(operand: Operand) -> int:
    """How many numbers of a factor a thread loads at once: up to 16 bytes, where they lie side by side."""
    width = 16 // np.dtype(_plain(operand.dtype)).itemsize
    while operand.run % width:
        width //= 2
    return width


def stored_at_once(function: tirx.PrimFunc) -> int:
    """How many results a thread stores at once: four, where no choice between numbers is made on the way."""
    # TVM's CUDA C mistakes vectors of truth values for vectors of numbers.
    chosen: list[tirx.Select] = []
    tvm_ffi.structural_walk(function.body, (tirx.Select, chosen.append), order="post")
    truths = any(str(buffer.dtype) == "bool" for buffer in (*function.params, *function.body.block.alloc_buffers))
    return 1 if chosen or truths else 4


def _plain(dtype: object) -> str:
    return "float16" if str(dtype) == "bfloat16" else str(dtype)


def inline_before(schedule: Schedule, loads: Sequence[Block]) -> None:
    """Compute what comes before a product while it is loaded."""
    for load in loads:
        auto_inline_producers(schedule, load)


def inline_after(schedule: Schedule, store: Block) -> None:
    """Compute what comes after a sum while it is stored; raises `ScheduleError` where something else must come
    between."""
    try:
        auto_inline_consumer_chain(schedule, store)
    except AssertionError as error:
        raise s_tir.ScheduleError(str(error)) from error


def shared_out(schedule: Schedule, block: Block, tile: Tile) -> Block:
    """Pad the product to whole tiles; cut its sum into shares that blocks of their own compute, where the tile wants
    some.

    Returns the block that multiplies. The shares are then its batch, and the given block adds them up.
    """
    schedule.pad_einsum(block, [1, tile.rows, tile.columns, tile.shares * tile.inner])
    if tile.shares == 1:
        return block
    shares, _ = schedule.split(schedule.get_loops(block)[-1], [tile.shares, None])
    return schedule.rfactor(shares, 0)


def add_shares(schedule: Schedule, block: Block) -> None:
    """Schedule the block that adds shares up, one thread for each result."""
    *spatial, shares = schedule.get_loops(block)
    group, thread = schedule.split(schedule.fuse(*spatial), [None, 256])
    schedule.bind(group, "blockIdx.x")
    schedule.bind(thread, "threadIdx.x")
    store = schedule.cache_write(block, 0, "local")
    schedule.reverse_compute_at(store, thread, preserve_unit_loops=True)
    inline_after(schedule, store)
    schedule.unroll(shares)
    schedule.decompose_reduction(block, shares)


def tile_loops(schedule: Schedule, block: Block) -> tuple[Loop, Loop, Loop, Loop]:
    """The loops batch, rows, columns, inner of the block that multiplies, with its shares in the batch."""
    loops = schedule.get_loops(block)
    if len(loops) == 5:
        batch, row, column, share, inner = loops
        schedule.reorder(share, batch, row, column, inner)
        return schedule.fuse(share, batch), row, column, inner
    return tuple(loops)
