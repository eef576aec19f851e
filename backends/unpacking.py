"""The way out of the blocked layout, with whatever was fused before it: computed in vectors, then transposed.

Fused into the transposing loop, the work would run along the pixels and read the lanes one by one. So a row of pixels
is computed lane by lane into a small buffer first.
"""

from math import prod

from tvm import s_tir, tirx

from .targets import Target
from .tiling import blocks_of, extent, vectorize

_SPATIAL = 0


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that ends in `unpack` and computes something before it."""
    sch = s_tir.Schedule(function)
    *before, last = blocks_of(sch)
    if not sch.get(last).name_hint.startswith("unpack") or not before:
        return None
    if any(int(var.iter_type) != _SPATIAL for block in before for var in sch.get(block).iter_vars):
        return None
    for block in before[:-1]:
        sch.compute_inline(block)
    work, loops = before[-1], sch.get_loops(last)
    if len(sch.get_loops(work)) != 5 or len(loops) not in (3, 4):
        return None
    lanes = extent(sch, sch.get_loops(work)[-1])
    n, channel, *rows, x = loops
    block, lane = sch.split(channel, [None, lanes])
    sch.reorder(n, block, *rows, lane, x)
    row = sch.fuse(n, block, *rows)
    sch.set_scope(work, 0, "local")
    sch.compute_at(work, row, preserve_unit_loops=True)
    inner = sch.get_loops(work)[1:]
    if prod(extent(sch, loop) for loop in inner) > lanes * extent(sch, x):
        return None  # Segments: the region of one block of channels is not seen through them.
    sch.parallel(row)
    vectorize(sch, inner[-1])
    return sch
