"""Norms of groups of channels: mean and inverse deviation of every group by one kernel; the rest is elementwise."""

from math import gcd

from tvm import s_tir, te, tirx

from . import rows
from .targets import Target
from .tiling import blocks_of, find, keep_beside

_MOMENTS = "graphprune.moments"
_FEWEST_LANES = 4


def moments(data: te.Tensor, epsilon: float, lanes: int) -> list[te.Tensor]:
    """The mean of each row of `(rows, length)`, and one over the root of its variance plus epsilon."""
    count, length = (int(size) for size in data.shape)
    share = tirx.const(1.0 / length, data.dtype)
    # Narrower vectors that fill the rows need no copy of them.
    fitting = gcd(length, lanes)
    lanes = fitting if fitting >= _FEWEST_LANES else lanes
    whole = rows.filled(data, [count], length, lanes, 0.0)
    width = int(whole.shape[-1])
    total = rows.row_sum(whole, [count], width, lanes, "total")
    mean = te.compute((count,), lambda r: total(r) * share, name="mean")
    if width == length:
        # A group is large: its differences from the mean are not kept.
        def centred(r, k):
            return data(r, k) - mean(r)
    else:
        centred = rows.filled(lambda r, k: data(r, k) - mean(r), [count], length, lanes, 0.0, "centred")
    squares = rows.row_sum(lambda r, k: centred(r, k) * centred(r, k), [count], width, lanes, "squares")
    inverse = te.compute(
        (count,),
        lambda r: te.rsqrt(squares(r) * share + tirx.const(epsilon, data.dtype)),
        name="inverse",
        attrs={_MOMENTS: [1]},
    )
    return [mean, inverse]


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Rows in parallel; the mean, which is a result, is computed beside the rest."""
    sch = s_tir.Schedule(function)
    last = find(sch, _MOMENTS)
    if last is None:
        return None
    (row,) = sch.get_loops(last)
    stages = blocks_of(sch)[:-1]
    sch.parallel(row)
    keep_beside(sch, stages, row, results=("mean",))
    for block in stages:
        rows.schedule_stage(sch, block, target)
    return sch
