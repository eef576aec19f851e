"""A schedule for short sums with many results, one thread for each: depthwise and grouped convolutions, pools, small
means.

The sum stays in a register; what comes before and after is computed on the way.
"""

from math import prod

from tvm import s_tir, tirx
from tvm.s_tir.dlight.gpu.matmul import get_reduction_blocks

from .cuda_gemm import inline_after, inline_before
from .cuda_scan import EXTREME
from .targets import Target

_THREADS = 256
# Longer sums, and fewer of them, are better shared by the threads of a block.
_LONGEST, _SHORT = 2048, 64
_MANY = 2048
_KINDS = (tirx.IterVar.DataPar, tirx.IterVar.CommReduce)


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a kernel with one reduction that is short; None for any other kernel."""
    plan = s_tir.Schedule(function)
    blocks = plan.get_child_blocks(plan.get_sblock("root"))
    found = get_reduction_blocks(plan, blocks)
    if not found:
        return None
    block = found[0]
    if len(plan.get(block).writes) > 1:  # a place and a value, for example
        return blocks_one_by_one(function, target)
    kinds = [(int(item.iter_type) == tirx.IterVar.DataPar, int(item.dom.extent)) for item in plan.get(block).iter_vars]
    results, steps = prod(n for spatial, n in kinds if spatial), prod(n for spatial, n in kinds if not spatial)
    long = steps > _LONGEST or (steps > _SHORT and results < _MANY)
    if long and plan.get(block).name_hint != EXTREME:
        return None
    inline_before(plan, [block])
    loops = plan.get_loops(block)
    own = [loop for loop, (spatial, _) in zip(loops, kinds, strict=True) if spatial]
    summed = [loop for loop, (spatial, _) in zip(loops, kinds, strict=True) if not spatial]
    plan.reorder(*own, *summed)
    group, thread = plan.split(plan.fuse(*own), [None, _THREADS])
    plan.bind(group, "blockIdx.x")
    plan.bind(thread, "threadIdx.x")
    store = plan.cache_write(block, 0, "local")
    plan.reverse_compute_at(store, thread, preserve_unit_loops=True)
    inline_after(plan, store)
    plan.decompose_reduction(block, summed[0])
    return plan


def blocks_one_by_one(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """A kernel per block, one thread for each of its results: for what no other rule takes."""
    plan = s_tir.Schedule(function)
    for block in plan.get_child_blocks(plan.get_sblock("root")):
        loops, items = plan.get_loops(block), plan.get(block).iter_vars
        if len(loops) != len(items) or any(int(item.iter_type) not in _KINDS for item in items):
            return None
        own = [loop for loop, item in zip(loops, items, strict=True) if int(item.iter_type) == tirx.IterVar.DataPar]
        rest = [loop for loop, item in zip(loops, items, strict=True) if int(item.iter_type) != tirx.IterVar.DataPar]
        own = own or [plan.add_unit_loop(rest[0] if rest else block)]
        plan.reorder(*own, *rest)
        group, thread = plan.split(plan.fuse(*own), [None, _THREADS])
        plan.bind(group, "blockIdx.x")
        plan.bind(thread, "threadIdx.x")
        if rest:
            plan.decompose_reduction(block, rest[0])
    return plan
