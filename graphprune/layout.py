"""The algebra of layouts: what views, broadcasting and contractions do to arrays of labels."""

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from .graph import Shape
from .labels import Array, Equations, Labels, Layout


def covering(layout: Layout, axis: int) -> Array | None:
    """The array that covers an axis, or None where the axis is fixed."""
    return next((array for array in layout if axis in array.axes), None)


def line(eq: Equations, layout: Layout, axis: int, size: int) -> Labels:
    """Labels along one axis as a 1-D array; zeros where the axis is fixed (or locked here: split with another)."""
    array = covering(layout, axis)
    if array is None:
        return np.zeros(size, dtype=np.int64)
    if len(array.axes) > 1:
        eq.lock(array.labels, "channels that depend on two axes meet an operation on one axis")
        return np.zeros(size, dtype=np.int64)
    return array.labels


def lock_axes(eq: Equations, layout: Layout, axes: Iterable[int], text: str, unlock: str = "") -> None:
    """Lock every array that covers one of the axes."""
    wanted = set(axes)
    for array in layout:
        if wanted & set(array.axes):
            eq.lock(array.labels, text, unlock)


def without(layout: Layout, axes: Iterable[int]) -> Layout:
    """The arrays that cover none of the axes."""
    dropped = set(axes)
    return tuple(array for array in layout if not dropped & set(array.axes))


def moved(layout: Layout, target: dict[int, int]) -> Layout:
    """Rename axes."""
    return tuple(array._replace(axes=tuple(target[axis] for axis in array.axes)) for array in layout)


def dirty(layout: Layout) -> Layout:
    """The same layout where dropped positions no longer hold zero."""
    return tuple(array._replace(zero=False) for array in layout)


def collapse(eq: Equations, array: Array, axis: int) -> Array:
    """Tie all labels along one axis of an array and leave that axis out."""
    where = array.axes.index(axis)
    first = array.labels.take([0], where)
    eq.tie(array.labels, first)
    return Array(array.axes[:where] + array.axes[where + 1 :], first.squeeze(where), array.zero)


def fold(eq: Equations, array: Array, axis: int) -> Array | None:
    """Leave out one axis of an array over which positions are combined.

    A row (head) then lives or dies as a whole; by the policy "dims" all rows stay and lose equally many positions,
    so that nothing is left to say of the other axes.
    """
    if "dims" not in eq.policy or axis != array.axes[-1] or len(array.axes) == 1:
        return collapse(eq, array, axis)
    eq.block(array.labels.reshape(-1, array.labels.shape[-1]), fixed=True)
    return None


def partly(eq: Equations, array: Array, gone: Sequence[int]) -> bool:
    """Whether some of the positions that are combined along axes may be dropped while others stay; see `fold`."""
    return bool(gone) and (len(gone) == len(array.axes) or "dims" in eq.policy and array.axes[-1] in gone)


def take(eq: Equations, layout: Layout, axis: int, index: Labels) -> Layout:
    """Select positions along an axis (slice, split, flip)."""
    result = []
    for array in layout:
        if axis in array.axes and index.size == 1 and len(array.axes) > 1:
            array = _picked(eq, array, axis, int(index[0]))
        elif axis in array.axes:
            array = array._replace(labels=array.labels.take(index, array.axes.index(axis)))
            if index.size < 2:  # axes of size 1 carry no labels
                eq.lock(array.labels, "is the only position that a slice leaves")
                continue
            eq.filled.append(array.labels.ravel())
        result.append(array)
    return tuple(result)


def windows(eq: Equations, layout: Layout, axis: int, step: int) -> None:
    """Tie every `step` positions in a row, so that a stride picks the same one of each window that is left."""
    for array in layout:
        if axis in array.axes:
            line = np.moveaxis(array.labels, array.axes.index(axis), 0)
            for start in range(0, len(line), step):
                eq.tie(line[start : start + step], line[start : start + 1])


def even(eq: Equations, layout: Layout, axis: int, position: int) -> None:
    """Where every row of a split axis is cut at a position, all rows keep as many members before it."""
    for array in layout:
        where = array.axes.index(axis) if axis in array.axes else 0
        if where > 0:
            before = array.labels.take(np.arange(position), where)
            eq.block(before.reshape(prod(before.shape[:where]), -1), fixed=False)


def select(eq: Equations, layout: Layout, axis: int, index: int) -> Layout:
    """Take one position of an axis and leave the axis out."""
    result = []
    for array in layout:
        if array.axes == (axis,):
            eq.lock(array.labels, f"one position of axis {axis} is picked by number")
            continue
        if axis in array.axes:
            array = _picked(eq, array, axis, index)
        result.append(array._replace(axes=tuple(other - (other > axis) for other in array.axes)))
    return tuple(result)


def _picked(eq: Equations, array: Array, axis: int, index: int) -> Array:
    """One position of one axis of several, and the axis left out."""
    if array.axes[0] != axis:  # what is picked within a row has to be the same one in all that are left
        return collapse(eq, array, axis)
    eq.block(array.labels.reshape(array.labels.shape[0], -1), fixed=True)
    return Array(array.axes[1:], array.labels[index], array.zero)


def copied(eq: Equations, layout: Layout, axis: int, count: int, each: bool) -> Layout:
    """Repeat the positions of an axis: each in place, or the whole axis as often."""
    result = []
    for array in layout:
        if axis in array.axes:
            where = array.axes.index(axis)
            if len(array.axes) > 1 and where > 0:
                eq.lock(array.labels, "channels that depend on two axes are repeated")
            copied = np.repeat(array.labels, count, where) if each else np.concatenate([array.labels] * count, where)
            array = array._replace(labels=copied)
        result.append(array)
    return tuple(result)


def segments(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Split a reshape into its smallest independent parts: (input axes, output axes) of equal product."""
    inner = [axis for axis, size in enumerate(before) if size != 1]
    outer = [axis for axis, size in enumerate(after) if size != 1]
    parts, i, j = [], 0, 0
    while i < len(inner) and j < len(outer):
        left, right = [inner[i]], [outer[j]]
        have, want = before[inner[i]], after[outer[j]]
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                have, i = have * before[inner[i]], i + 1
                left.append(inner[i - 1])
            else:
                want, j = want * after[outer[j]], j + 1
                right.append(outer[j - 1])
        parts.append((left, right))
    return parts


def reshape(eq: Equations, layout: Layout, before: Shape, after: Shape) -> Layout:
    """Carry labels through a reshape.

    A split gives an array over several axes with an equal-count block; a merge in the order of the labels is
    free; a merge in another order (channel shuffle) ties the shorter axis; a minor axis merged with fixed
    positions (pixel shuffle) is tied.
    """
    if 0 in before or 0 in after:
        return ()
    parts = segments(before, after)
    lost = {id(array) for left, _ in parts if len(left) > 1 for array in _crowded(eq, layout, left)}
    result = [
        _reshape_array(eq, _in_order(eq, array, parts), before, after, parts)
        for array in layout
        if id(array) not in lost
    ]
    for array in result:
        for rows in range(len(array.axes) - 1, 0, -1):  # the finest first: balancing them balances the rest
            eq.block(array.labels.reshape(prod(array.labels.shape[:rows]), -1), fixed=False)
    return tuple(result)


def _crowded(eq: Equations, layout: Layout, left: list[int]) -> list[Array]:
    """Where several labelled axes are merged into one, only the major one may stay; the others are locked."""
    covers = sorted((array for array in layout if set(array.axes) & set(left)), key=lambda array: min(array.axes))
    floating = [array for array in covers if eq.floats(array.labels)]
    real = [array for array in covers if not any(array is other for other in floating)]
    lost = [*floating, *real[1:]] if real else floating[1:]
    for array in lost:
        eq.lock(array.labels, "two labelled axes are merged into one")
    return lost


def _in_order(eq: Equations, array: Array, parts: list[tuple[list[int], list[int]]]) -> Array:
    """Tie axes until what remains can be merged without leaving the order of the labels."""
    for left, _ in parts:
        if len(left) == 1:
            continue
        for axis in [axis for axis in left if axis in array.axes[1:]]:
            if len(array.axes) > 1 and not set(left) <= set(array.axes):
                array = collapse(eq, array, axis)
        mine = [axis for axis in array.axes if axis in left]
        while mine != sorted(mine):
            shortest = min(mine, key=lambda axis: array.labels.shape[array.axes.index(axis)])
            array = collapse(eq, array, shortest)
            mine.remove(shortest)
    return array


def _reshape_array(
    eq: Equations, array: Array, before: Shape, after: Shape, parts: list[tuple[list[int], list[int]]]
) -> Array:
    labels, tags = array.labels, [("in", axis) for axis in array.axes]
    for left, right in parts:
        if not any(("in", axis) in tags for axis in left):
            continue
        missing = [axis for axis in left if ("in", axis) not in tags]
        labels = np.broadcast_to(
            labels.reshape(labels.shape + (1,) * len(missing)), labels.shape + tuple(before[axis] for axis in missing)
        )
        tags = tags + [("in", axis) for axis in missing]
        mine = [tags.index(("in", axis)) for axis in left]
        rest = [position for position in range(len(tags)) if position not in mine]
        head = [position for position in rest if position < min(mine)]
        order = head + mine + [position for position in rest if position > min(mine)]
        labels = labels.transpose(order)
        tags = [tags[position] for position in order]
        start = len(head)
        labels = labels.reshape(
            labels.shape[:start] + tuple(after[axis] for axis in right) + labels.shape[start + len(left) :]
        )
        tags[start : start + len(left)] = [("out", axis) for axis in right]
    axes = [axis for _, axis in tags]
    for where in range(len(axes) - 1, -1, -1):  # an axis along which no label varies carries no constraint
        if labels.ndim > 1 and (labels == labels.take([0], where)).all():
            labels = labels.take([0], where).squeeze(where)
            axes.pop(where)
    return Array(tuple(axes), np.ascontiguousarray(labels), array.zero)
