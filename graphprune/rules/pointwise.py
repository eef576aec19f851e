"""Element-wise operations: aligned positions live and die together."""

import numpy as np

from ..graph import Node
from ..joining import join
from ..labels import Equations, Layout
from ..layout import dirty, take


def keeps_zero(eq: Equations, node: Node, x: Layout, *others: Layout) -> Layout:
    """A function of one tensor with f(0) = 0: relu, gelu, tanh, dropout."""
    return x


def loses_zero(eq: Equations, node: Node, x: Layout, *others: Layout) -> Layout:
    """A function of one tensor with f(0) != 0: sigmoid, exp, cos."""
    return dirty(x)


def clamp(eq: Equations, node: Node, x: Layout, *bounds: Layout) -> Layout:
    """Zero stays zero where it lies between the bounds."""
    if any(bounds):
        return _broadcast(eq, node, (x, *bounds), "none")
    low, high = node.attrs.get("low"), node.attrs.get("high")
    inside = (low is None or low <= 0) and (high is None or high >= 0)
    return x if inside else dirty(x)


def sums(eq: Equations, node: Node, *operands: Layout) -> Layout:
    """add, sub, maximum: zero where all operands are zero."""
    if node.attrs.get("scalar"):
        operands = tuple(map(dirty, operands))
    return _broadcast(eq, node, operands, "all")


def products(eq: Equations, node: Node, *operands: Layout) -> Layout:
    """mul, and: zero where any operand is zero."""
    return _broadcast(eq, node, operands, "any")


def glu(eq: Equations, node: Node, x: Layout) -> Layout:
    """One half of an axis times the sigmoid of the other. attrs: axis."""
    axis, value = int(node.attrs["axis"]), node.inputs[0]
    assert value is not None
    half = value.shape[axis] // 2
    for array in x:
        if array.axes == (axis,):
            eq.block(array.labels.reshape(2, -1), fixed=True)
        elif axis in array.axes:
            eq.lock(array.labels, "channels that depend on two axes are halved")
    first, second = take(eq, x, axis, np.arange(half)), take(eq, x, axis, np.arange(half, 2 * half))
    shape, letters = node.outputs[0].shape, range(len(value.shape))
    joined = join(eq, [(shape, first, letters), (shape, dirty(second), letters)], "any")
    return tuple(array._replace(axes=axes) for axes, array in joined)  # type: ignore[arg-type]


def quotient(eq: Equations, node: Node, over: Layout, under: Layout = ()) -> Layout:
    """div: zero where the numerator is zero; a dropped denominator would divide by zero."""
    for array in under:
        if array.zero:
            eq.loosen(array.labels, "divides by positions that are zero when dropped")
    return _broadcast(eq, node, (over, dirty(under)), "any")


def mixture(eq: Equations, node: Node, *operands: Layout) -> Layout:
    """where, comparisons, powers: aligned, but nothing is known of zero."""
    return _broadcast(eq, node, operands, "none")


def prelu(eq: Equations, node: Node, x: Layout, slope: Layout) -> Layout:
    """A slope per channel (axis 1) or one slope for all."""
    value, weight = node.inputs[0], node.inputs[1]
    assert value is not None and weight is not None
    letters = range(len(value.shape))
    joined = join(eq, [(value.shape, x, letters), (weight.shape, slope, [min(1, len(value.shape) - 1)])], "any")
    return tuple(array._replace(axes=axes) for axes, array in joined)  # type: ignore[arg-type]


def _broadcast(eq: Equations, node: Node, operands: tuple[Layout, ...], zero: str) -> Layout:
    rank = len(node.outputs[0].shape)
    aligned = [
        (value.shape, layout, range(rank - len(value.shape), rank))
        for value, layout in zip(node.inputs, operands, strict=False)
        if value is not None
    ]
    joined = join(eq, aligned, "all" if zero == "none" else zero)
    result = tuple(array._replace(axes=axes) for axes, array in joined)  # type: ignore[arg-type]
    return dirty(result) if zero == "none" else result
