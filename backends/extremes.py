"""Maxima and minima: start from infinity, and run along vectors where the contiguous axis is reduced.

A code generator may not reorder a maximum, because of NaN and zeros with signs. So the contiguous axis is reduced lane
by lane first, and the lanes afterwards.
"""

import math
from collections.abc import Callable, Sequence

from tvm import te, tirx

from .generic import LANES

# Whole vectors on every target.
_LANES = 16

_COMBINE: dict[str, tuple[Callable[[tirx.Expr, tirx.Expr], tirx.Expr], float]] = {
    "max": (lambda x, y: tirx.max(x, y), -math.inf),
    "min": (lambda x, y: tirx.min(x, y), math.inf),
}


def extreme(data: te.Tensor, name: str, axes: Sequence[int], keepdims: bool) -> te.Tensor:
    """The maximum or minimum (`name`: max, min) over some axes; of nothing it is an infinity."""
    combine, start = _COMBINE[name]
    reducer = te.comm_reducer(combine, lambda dtype: tirx.const(start, dtype), name=name)
    rank = len(data.shape)
    left = [axis for axis in range(rank) if keepdims or axis not in axes]
    shape = [1 if axis in axes else data.shape[axis] for axis in left]
    last = int(data.shape[rank - 1]) if rank - 1 in axes else 0
    if last < 2 * _LANES:
        return _reduced(data, reducer, shape, left, axes, name)
    # What is left of the reduced axes: the lanes and, where nothing else is for the threads, all of the first one.
    first = min(axes) if len(axes) == rank else rank - 1
    kept = {axis: int(data.shape[axis]) for axis in (first,) if axis != rank - 1}
    sums = [te.reduce_axis((0, size), f"k{axis}") for axis, size in kept.items()]
    lane = te.reduce_axis((0, _LANES), "lane")
    per_lane = _per_lane(data, reducer, [axis for axis in axes if axis not in kept], last)

    def value(*index: tirx.Expr) -> tirx.Expr:
        known = {**dict(zip(left, index, strict=True)), **dict(zip(kept, sums, strict=True))}
        place = [known[axis] for axis in range(rank) if axis not in axes or axis in kept]
        return reducer(per_lane(*place, lane), axis=[*sums, lane])

    return te.compute(shape, value, name=name)


def _reduced(data: te.Tensor, reducer: Callable, shape: list, left: list[int], axes: Sequence[int], name: str):
    """All at once."""
    sums = {axis: te.reduce_axis((0, data.shape[axis]), f"k{axis}") for axis in sorted(axes)}

    def value(*index: tirx.Expr) -> tirx.Expr:
        known = {**dict(zip(left, index, strict=True)), **sums}
        return reducer(data(*(known[axis] for axis in range(len(data.shape)))), axis=list(sums.values()))

    return te.compute(shape, value, name=name)


def _per_lane(data: te.Tensor, reducer: Callable, axes: Sequence[int], last: int) -> te.Tensor:
    """Some axes and the last one reduced, lane by lane; the last vector overlaps the one before it."""
    rank = len(data.shape)
    kept = [axis for axis in range(rank - 1) if axis not in axes]
    sums = {axis: te.reduce_axis((0, data.shape[axis]), f"k{axis}") for axis in axes if axis != rank - 1}
    step = te.reduce_axis((0, -(-last // _LANES)), "step")

    def value(*index: tirx.Expr) -> tirx.Expr:
        known = {**dict(zip(kept, index, strict=False)), **sums}
        start = step * _LANES if last % _LANES == 0 else tirx.min(step * _LANES, last - _LANES)
        place = data(*(known[axis] for axis in range(rank - 1)), start + index[-1])
        return reducer(place, axis=[*sums.values(), step])

    shape = [data.shape[axis] for axis in kept]
    return te.compute([*shape, _LANES], value, name="lanes", attrs={LANES: [1]})
