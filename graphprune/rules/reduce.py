"""Reductions, pooling, and operations along one axis."""

import numpy as np

from ..graph import Node
from ..labels import Array, Equations, Layout
from ..layout import collapse, dirty, fold, lock_axes, partly, without
from .norm import repaired


def total(eq: Equations, node: Node, x: Layout) -> Layout:
    """sum, and norms that zeros do not change: exact over dropped positions that are zero. attrs: axes, keepdims."""
    return _reduce(eq, node, x, exact=True, text="sums over positions that are not zero when dropped")


def average(eq: Equations, node: Node, x: Layout) -> Layout:
    """mean, var, std, prod: the number of positions matters. attrs: axes, keepdims."""
    return _reduce(eq, node, x, exact=False, text=f"{node.op} depends on the number of positions")


def extremum(eq: Equations, node: Node, x: Layout) -> Layout:
    """max, min: a dropped zero may have been the largest. attrs: axes, keepdims."""
    return dirty(_reduce(eq, node, x, exact=False, text=f"{node.op} may pick a position that is dropped"))


def along(eq: Equations, node: Node, x: Layout, *others: Layout) -> Layout:
    """softmax, cumsum, sort, topk, argmax: positions of `axis` (None: of all axes) are mixed or counted."""
    axes = range(len(_shape(node))) if node.attrs.get("axis") is None else [int(node.attrs["axis"])]
    text, unlock = f"{node.op} runs over it", "prune another axis"
    own: Layout = ()
    for array in x:
        inside = [axis for axis in array.axes if axis in axes]
        if len(inside) == len(array.axes):
            eq.lock(array.labels, text, unlock)
            continue
        for axis in inside:  # one axis of a split one: whole rows across it go
            array = collapse(eq, array, axis)
        own += (array,)
    for layout in others:
        for array in layout:
            eq.lock(array.labels, text, unlock)
    same = all(len(output.shape) == len(_shape(node)) for output in node.outputs)
    result = dirty(own) if same else ()
    if not same:
        for array in x:
            eq.lock(array.labels, text, unlock)
    return result


def transform(eq: Equations, node: Node, x: Layout) -> Layout:
    """Fourier transforms: a linear map along `axes`, the others pass and stay zero where they are. attrs: axes."""
    lock_axes(eq, x, node.attrs["axes"], f"{node.attrs['name']} runs over it", "prune another axis")
    return without(x, node.attrs["axes"])


def pool(eq: Equations, node: Node, x: Layout) -> Layout:
    """Pooling and resizing over the last `dims` axes; channels pass. attrs: dims."""
    rank = len(_shape(node))
    slid = range(rank - int(node.attrs["dims"]), rank)
    lock_axes(eq, x, slid, "slides over this axis")
    return without(x, slid)


def regions(eq: Equations, node: Node, x: Layout, boxes: Layout) -> Layout:
    """Channels of the regions in boxes, cropped and resized (roi_align): images become regions, channels pass."""
    for array in boxes:
        eq.lock(array.labels, "are boxes")
    lock_axes(eq, x, [0, 2, 3], "is cropped and resized")
    return without(x, [0, 2, 3])


def constant(eq: Equations, node: Node, *inputs: Layout) -> Layout:
    """A tensor made in `forward`: no labels. Inputs give only their shape or dtype (zeros_like)."""
    return ()


def fill(eq: Equations, node: Node) -> Layout:
    """One number everywhere (zeros, ones): any position may go, if what it meets goes. attrs: value."""
    shape = node.outputs[0].shape
    return tuple(
        Array((axis,), eq.afloat(size), node.attrs["value"] == 0) for axis, size in enumerate(shape) if size > 1
    )


def fill_like(eq: Equations, node: Node, x: Layout) -> Layout:
    """One number everywhere, in the shape of another tensor. attrs: value."""
    return tuple(array._replace(zero=node.attrs["value"] == 0) for array in x)


def unknown(eq: Equations, node: Node, *inputs: Layout) -> Layout:
    """No rule: lock everything that goes in; nothing is known of what comes out."""
    unlock = str(node.attrs.get("unlock") or "add a rule: graphprune.register_op, or docs/extending.md")
    text = str(node.attrs.get("reason") or f"operation '{node.attrs.get('name', node.op)}' has no rule")
    for layout in inputs:
        for array in layout:
            eq.lock(array.labels, text, unlock)
    return ()


def _reduce(eq: Equations, node: Node, x: Layout, exact: bool, text: str) -> Layout:
    rank = len(_shape(node))
    axes = sorted(range(rank) if node.attrs.get("axes") is None else node.attrs["axes"])
    keep = bool(node.attrs.get("keepdims"))
    place = {axis: axis if keep else axis - sum(other < axis for other in axes) for axis in range(rank)}
    result = []
    for array in x:
        gone = [axis for axis in array.axes if axis in axes]
        if partly(eq, array, gone) and not (array.zero and (exact or repaired(eq, node))):
            eq.loosen(array.labels, text, "exact=False")
        if len(gone) == len(array.axes):
            if node.op in ("var", "std"):  # one position has none: each half keeps its best
                eq.filled.extend(np.array_split(array.labels.ravel(), 2))
            continue
        left: Array | None = array
        for axis in reversed(gone):
            left = fold(eq, left, axis) if left else None
        if left:
            result.append(left._replace(axes=tuple(place[axis] for axis in left.axes)))
    return tuple(result)


def _shape(node: Node) -> tuple[int, ...]:
    value = node.inputs[0]
    assert value is not None
    return value.shape
