"""Patches: windows of a spatial grid laid out as positions and back, and values sampled from a grid."""

import numpy as np

from ..graph import Node, Shape
from ..labels import Array, Equations, Layout
from ..layout import covering, lock_axes, without

SLIDES = "slides over this axis"


def unfold(eq: Equations, node: Node, x: Layout) -> Layout:
    """im2col, (N, C, ...) -> (N, C k, L): every channel gives k positions in a row."""
    shape, after = _shape(node), node.outputs[0].shape
    channel = len(after) - 2
    array = _channels(eq, x, len(shape), channel)
    if array is None:
        return ()
    return (array._replace(labels=np.repeat(array.labels, after[channel] // shape[channel])),)


def fold(eq: Equations, node: Node, x: Layout) -> Layout:
    """col2im, (N, C k, L) -> (N, C, ...): the k positions of a channel live and die together."""
    shape, after = _shape(node), node.outputs[0].shape
    channel = len(shape) - 2
    array = _channels(eq, x, len(shape), channel)
    if array is None:
        return ()
    rows = array.labels.reshape(after[channel], -1)
    eq.tie(rows, rows[:, :1])
    if after[channel] == 1:
        eq.lock(rows, "becomes the only channel")
        return ()
    return (array._replace(labels=rows[:, 0]),)


def windows(eq: Equations, node: Node, x: Layout) -> Layout:
    """Tensor.unfold: windows along an axis, with a new last axis; the other axes pass. attrs: axis."""
    axis = int(node.attrs["axis"])
    lock_axes(eq, x, [axis], SLIDES)
    return without(x, [axis])


def sample(eq: Equations, node: Node, x: Layout, grid: Layout = ()) -> Layout:
    """grid_sample: channels (axis 1) pass, the grid is fixed."""
    rank = len(_shape(node))
    lock_axes(eq, x, set(range(rank)) - {1}, "is a place in a grid")
    for array in grid:
        eq.lock(array.labels, "is a place in a grid")
    return tuple(array for array in x if array.axes == (1,))


def _channels(eq: Equations, x: Layout, rank: int, channel: int) -> Array | None:
    """The labels of the channels alone; all other axes are locked."""
    lock_axes(eq, x, set(range(rank)) - {channel}, SLIDES)
    array = covering(x, channel)
    return array if array is not None and len(array.axes) == 1 else None


def _shape(node: Node) -> Shape:
    value = node.inputs[0]
    assert value is not None
    return value.shape
