"""A schedule for short sums with many results, one thread for each: depthwise and grouped convolutions, pools, small
means.

The sum stays in a register; what comes before and after is computed on the way.
"""

from math import prod

from tvm import s_tir, tirx
from tvm.s_tir.dlight.gpu.matmul import get_reduction_blocks

from .cuda_gemm import inline_after, inline_before
from .targets import Target

_THREADS = 256
# Longer sums, and fewer of them, are better shared by the threads of a block.
_LONGEST, _SHORT = 2048, 64
_MANY = 2048


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a kernel with one reduction that is short; None for any other kernel."""
    plan = s_tir.Schedule(function)
    blocks = plan.get_child_blocks(plan.get_sblock("root"))
    found = get_reduction_blocks(plan, blocks)
    if not found:
        return None
    block = found[0]
    kinds = [(int(item.iter_type) == tirx.IterVar.DataPar, int(item.dom.extent)) for item in plan.get(block).iter_vars]
    results, steps = prod(n for spatial, n in kinds if spatial), prod(n for spatial, n in kinds if not spatial)
    if steps > _LONGEST or (steps > _SHORT and results < _MANY):
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
