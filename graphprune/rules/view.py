"""Views and copies that move positions without mixing them."""

from math import prod

import numpy as np

from ..graph import Node, Shape, Value
from ..joining import join
from ..labels import Array, Equations, Layout
from ..layout import collapse, copied, covering, even, line, lock_axes, moved, select, take, windows, without
from ..layout import reshape as carry_reshape

Parts = list[tuple[Value, Layout]]


def identity(eq: Equations, node: Node, x: Layout, *others: Layout) -> Layout:
    """contiguous, clone, detach, to, dropout at inference."""
    return x


def reshape(eq: Equations, node: Node, x: Layout) -> Layout:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze."""
    return carry_reshape(eq, x, _shape(node), node.outputs[0].shape)


def permute(eq: Equations, node: Node, x: Layout) -> Layout:
    """attrs: order (output axis -> input axis)."""
    return moved(x, {source: target for target, source in enumerate(node.attrs["order"])})


def cat(eq: Equations, node: Node, *parts: Layout) -> Layout:
    """Positions along `axis` follow one another; the other axes are tied."""
    values = [value for value in node.inputs if value is not None]
    rank, axis = len(node.outputs[0].shape), int(node.attrs["axis"])
    kept = [(value, part) for value, part in zip(values, parts, strict=True) if prod(value.shape)]
    kept, rows = _split_parts(eq, kept, axis)
    others = [
        ((*value.shape[:axis], 1, *value.shape[axis + 1 :]), without(part, [axis]), range(rank)) for value, part in kept
    ]
    result = [array._replace(axes=letters) for letters, array in join(eq, others, "all")]  # type: ignore[arg-type]
    if rows is not None:
        return (*(array for array in result if not set(array.axes) & set(rows.axes)), rows)
    columns = [line(eq, part, axis, value.shape[axis]) for value, part in kept]
    labels = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
    if labels.any():
        zero = all(array.zero for _, part in kept for array in part if array.axes == (axis,))
        result.append(Array((axis,), labels, zero))
    return tuple(result)


def _split_parts(eq: Equations, parts: Parts, axis: int) -> tuple[Parts, Array | None]:
    """Parts of which some depend on two axes: their rows are tied; the policy "dims" joins them row by row instead."""
    covers = [covering(part, axis) for _, part in parts]
    split = [array for array in covers if array and len(array.axes) > 1]
    if not split:
        return parts, None
    axes = split[0].axes
    if (
        "dims" in eq.policy
        and axes[-1] == axis
        and all(array is None or array.axes in (axes, (axis,)) for array in covers)
    ):
        heads, pieces = split[0].labels.shape[:-1], []
        for (value, _), array in zip(parts, covers, strict=True):
            labels = np.zeros(value.shape[axis], dtype=np.int64) if array is None else array.labels
            pieces.append(np.broadcast_to(labels, (*heads, value.shape[axis])))
            eq.block(pieces[-1].reshape(prod(heads), -1), fixed=True)
        return parts, Array(axes, np.concatenate(pieces, -1), all(array is not None and array.zero for array in covers))
    tied = []
    for value, part in parts:
        left = tuple(_rows_of(eq, array, axis) for array in part)
        tied.append((value, left))
    return tied, None


def _rows_of(eq: Equations, array: Array, axis: int) -> Array:
    """An array that depends on an axis and on others, without that axis."""
    return collapse(eq, array, axis) if axis in array.axes and len(array.axes) > 1 else array


def stack(eq: Equations, node: Node, *parts: Layout) -> Layout:
    """A new axis without labels; all parts are tied."""
    axis, rank = int(node.attrs["axis"]), len(_shape(node))
    values = [value for value in node.inputs if value is not None]
    operands = [(value.shape, part, range(rank)) for value, part in zip(values, parts, strict=True)]
    joined = tuple(array._replace(axes=letters) for letters, array in join(eq, operands, "all"))  # type: ignore[arg-type]
    return moved(joined, {old: old + (old >= axis) for old in range(rank)})


def split(eq: Equations, node: Node, x: Layout) -> list[Layout]:
    """attrs: axis, sizes, even. Even pieces (chunk) keep equal counts, so that the call stays right."""
    axis, sizes = int(node.attrs["axis"]), list(node.attrs["sizes"])
    bounds = np.cumsum([0, *sizes])
    for bound in bounds[1:-1]:
        even(eq, x, axis, int(bound))
    array = covering(x, axis)
    if node.attrs.get("even") and array and len(array.axes) == 1 and len(sizes) > 1 and len(set(sizes)) == 1:
        eq.block(array.labels.reshape(len(sizes), -1), fixed=True)
    return [take(eq, x, axis, np.arange(bounds[i], bounds[i + 1])) for i in range(len(sizes))]


def unbind(eq: Equations, node: Node, x: Layout) -> list[Layout]:
    """One output per position of `axis`."""
    axis = int(node.attrs["axis"])
    return [select(eq, x, axis, position) for position in range(_shape(node)[axis])]


def getitem(eq: Equations, node: Node, x: Layout) -> Layout:
    """x[...]. attrs: cuts [(axis, start, stop, step)], picks [(axis, index)]; new axes of size 1 may follow."""
    shape = list(_shape(node))
    for axis, start, stop, step in node.attrs["cuts"]:
        index = np.arange(shape[axis])[start:stop:step]
        if step != 1:
            windows(eq, x, axis, step)
        for bound in {start, stop} - {0, shape[axis]}:
            even(eq, x, axis, bound)
        if index.size < shape[axis]:
            x = take(eq, x, axis, index)
        shape[axis] = index.size
    for axis, position in sorted(node.attrs["picks"], reverse=True):
        x = select(eq, x, axis, position) if shape[axis] > 1 else moved(x, _closed(len(shape), axis))
        shape.pop(axis)
    return carry_reshape(eq, x, tuple(shape), node.outputs[0].shape)


def index(eq: Equations, node: Node, x: Layout, positions: Layout = ()) -> Layout:
    """x[:, list or tensor]: known positions are taken, an axis indexed by unknown ones stays whole.

    attrs: axis, rank (of the index), positions (where they are known). A stored index is sliced along with what it
    takes, and looks its positions up anew.
    """
    axis, chosen = int(node.attrs["axis"]), node.attrs.get("positions")
    array, stored = covering(x, axis), node.inputs[1] if len(node.inputs) > 1 else None
    if array is not None and chosen is not None and len(array.axes) == 1 and (stored is None or stored.uses == 1):
        if stored is not None:
            eq.lookups[stored.name] = array.labels
        for own in positions:
            eq.tie(own.labels, array.labels[chosen])
        return take(eq, x, axis, chosen)
    lock_axes(
        eq, x, [axis], "is indexed by positions that the program computes or shares", "index by a buffer of its own"
    )
    for own in positions:
        eq.lock(own.labels, "is used as an index")
    grown = int(node.attrs["rank"]) - 1
    return moved(without(x, [axis]), {old: old + grown * (old > axis) for old in range(len(_shape(node)))})


def flip(eq: Equations, node: Node, x: Layout) -> Layout:
    """Positions in reverse order. attrs: axes."""
    for axis in node.attrs["axes"]:
        x = take(eq, x, axis, np.arange(_shape(node)[axis])[::-1])
    return x


def roll(eq: Equations, node: Node, x: Layout) -> Layout:
    """attrs: shifts {axis: count}. The last `count` positions come first; fewer of them once some are dropped."""
    for axis, shift in node.attrs["shifts"].items():
        even(eq, x, axis, _shape(node)[axis] - shift)
        x = take(eq, x, axis, np.roll(np.arange(_shape(node)[axis]), shift))
    return x


def expand(eq: Equations, node: Node, x: Layout, other: Layout = ()) -> Layout:
    """Broadcast to a larger shape: that of `other`, or one that follows what it meets."""
    shape, after = _shape(node), node.outputs[0].shape
    extra = len(after) - len(shape)
    new = {axis for axis, size in enumerate(after) if axis < extra or shape[axis - extra] != size}
    like = tuple(array._replace(zero=False) for array in other if set(array.axes) <= new)
    if len(node.inputs) == 1:
        like = tuple(Array((axis,), eq.afloat(after[axis]), False) for axis in sorted(new) if after[axis] > 1)
    return (*moved(x, {axis: axis + extra for axis in range(len(shape))}), *like)


def repeat(eq: Equations, node: Node, x: Layout) -> Layout:
    """Whole copies after one another. attrs: times (one per output axis)."""
    times = list(node.attrs["times"])
    extra = len(times) - len(_shape(node))
    result = moved(x, {axis: axis + extra for axis in range(len(_shape(node)))})
    for axis, count in enumerate(times):
        if count > 1:
            result = copied(eq, result, axis, count, each=False)
    return result


def repeat_interleave(eq: Equations, node: Node, x: Layout) -> Layout:
    """Every position `times` times in place. attrs: axis, times."""
    return copied(eq, x, int(node.attrs["axis"]), int(node.attrs["times"]), each=True)


def pad(eq: Equations, node: Node, x: Layout) -> Layout:
    """attrs: pads {axis: (before, after)}, zero (padded with a number), value. New positions are fixed."""
    constant = node.attrs.get("zero", True)
    result = []
    for array in x:
        if set(node.attrs["pads"]) - set(array.axes) and constant and node.attrs.get("value"):
            array = array._replace(zero=False)  # a dropped channel gets a rim that is not zero
        for axis in [axis for axis in array.axes if any(node.attrs["pads"].get(axis, ()))]:
            if len(array.axes) == 1:
                array = _padded(eq, node, array, axis)
            else:  # a dropped row gets positions that are not zero
                array = collapse(eq, array, axis)._replace(zero=array.zero and constant and not node.attrs.get("value"))
        result.append(array)
    return tuple(result)


def _padded(eq: Equations, node: Node, array: Array, axis: int) -> Array:
    """Labels along one padded axis; what is cropped or copied from other positions is locked."""
    before, after = node.attrs["pads"][axis]
    if before < 0 or after < 0:
        eq.lock(array.labels, "is cropped by a fixed number of positions")
    elif not node.attrs.get("zero", True):
        eq.lock(array.labels, "is padded from its own positions")
    labels = array.labels[max(-before, 0) : array.labels.size - max(-after, 0)]
    return array._replace(labels=np.pad(labels, (max(before, 0), max(after, 0))))


def as_complex(eq: Equations, node: Node, x: Layout) -> Layout:
    """(..., 2) -> complex (...): the parts of a number live and die together."""
    last, result = len(_shape(node)) - 1, list[Array]()
    for array in x:
        if array.axes == (last,):
            eq.lock(array.labels, "are the two parts of complex numbers")
        else:
            result.append(collapse(eq, array, last) if last in array.axes else array)
    return tuple(result)


def pixel_shuffle(eq: Equations, node: Node, x: Layout) -> Layout:
    """(N, C r r, H, W) -> (N, C, H r, W r): the r x r sub-channels of a channel live and die together."""
    *batch, channels, height, width = _shape(node)
    r, b = int(node.attrs["factor"]), len(batch)
    split_shape = (*batch, channels // (r * r), r, r, height, width)
    order = [*range(b + 1), b + 3, b + 1, b + 4, b + 2]
    return _through(eq, x, _shape(node), split_shape, order, node.outputs[0].shape)


def pixel_unshuffle(eq: Equations, node: Node, x: Layout) -> Layout:
    """(N, C, H r, W r) -> (N, C r r, H, W)."""
    *batch, channels, height, width = _shape(node)
    r, b = int(node.attrs["factor"]), len(batch)
    split_shape = (*batch, channels, height // r, r, width // r, r)
    return _through(
        eq, x, _shape(node), split_shape, [*range(b + 1), b + 2, b + 4, b + 1, b + 3], node.outputs[0].shape
    )


def channel_shuffle(eq: Equations, node: Node, x: Layout) -> Layout:
    """View as (groups, channels / groups), transpose, flatten. attrs: groups, whose number stays."""
    batch, channels, *rest = _shape(node)
    groups = int(node.attrs["groups"])
    split_shape = (batch, groups, channels // groups, *rest)
    layout = carry_reshape(eq, x, _shape(node), split_shape)
    for array in layout:
        if array.axes == (1,):
            eq.lock(array.labels, "is a group of a channel shuffle")
    layout = tuple(collapse(eq, array, 1) if 1 in array.axes else array for array in layout if array.axes != (1,))
    layout = moved(layout, {1: 2, 2: 1, **{axis: axis for axis in (0, *range(3, len(split_shape)))}})
    return carry_reshape(eq, layout, (batch, channels // groups, groups, *rest), _shape(node))


def _through(eq: Equations, x: Layout, before: Shape, middle: Shape, order: list[int], after: Shape) -> Layout:
    layout = carry_reshape(eq, x, before, middle)
    layout = moved(layout, {source: target for target, source in enumerate(order)})
    return carry_reshape(eq, layout, tuple(middle[axis] for axis in order), after)


def _closed(rank: int, axis: int) -> dict[int, int]:
    return {other: other - (other > axis) for other in range(rank) if other != axis}


def _shape(node: Node) -> Shape:
    value = next(value for value in node.inputs if value is not None)
    return value.shape
