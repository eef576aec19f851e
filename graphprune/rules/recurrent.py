"""Recurrent layers and cells: hidden units live and die with their rows in every gate.

A dropped unit that starts at zero stays exactly zero: all its gates are then computed from zeros, and each of the
three cells maps that to a zero state.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod

import numpy as np

from ..graph import Node, Value
from ..joining import NO_CHANNELS
from ..labels import Array, Equations, Labels, Layout, Product
from ..layout import line, lock_axes

Tensor = tuple[Value, Layout]


def recurrent(eq: Equations, node: Node, x: Layout, *rest: Layout) -> list[Layout]:
    """LSTM, GRU or RNN, a whole layer stack or one cell.

    Inputs: x (..., features); `states` initial states; then per layer and direction the weights of the input and of
    the state, with `biased` a bias of each, with `projected` the projection. attrs: gates (blocks of rows in every
    weight), states (2 with a cell state), directions, biased, projected.
    """
    states, directions = int(node.attrs["states"]), int(node.attrs["directions"])
    tensors = list(zip(node.inputs[1:], rest, strict=True))
    per = 2 + 2 * bool(node.attrs["biased"]) + bool(node.attrs["projected"])
    weights = _parts(tensors[states:], per)
    value = node.inputs[0]
    assert value is not None
    rank = len(value.shape)
    lock_axes(eq, x, range(rank - 1), "is the batch or the time of a recurrent layer", "use the last axis for channels")
    inner, units, visible = line(eq, x, rank - 1, value.shape[-1]), list[Labels](), list[Labels]()
    steps, rows = prod(value.shape[:-1]), len(tensors[states:]) // per
    for _ in range(rows // directions):
        for part in islice(weights, directions):
            cell, out = _direction(eq, node, inner, part, steps)
            units.append(cell)
            visible.append(out)
        inner = np.concatenate(visible[-directions:])
    zero = all([_state(eq, *tensors[i], np.stack(visible if i == 0 else units)) for i in range(states)])
    for stacked in (units, visible) if node.attrs["projected"] else (units,):
        if rows > 1:  # one number for all: `hidden_size` and `proj_size` of the layer
            eq.block(np.stack(stacked), fixed=True)
    last = [_stacked(value, visible if i == 0 else units, zero) for i, value in enumerate(node.outputs[-states:])]
    if len(node.outputs) == states:  # a cell
        return last
    return [(Array((len(node.outputs[0].shape) - 1,), inner, zero),), *last]


def packing(eq: Equations, node: Node, x: Layout) -> list[Layout]:
    """Padded sequences to packed ones or back: the last axis passes, batch and time change. attrs: zero (padding)."""
    value = node.inputs[0]
    assert value is not None
    last, rank = len(value.shape) - 1, len(node.outputs[0].shape)
    lock_axes(eq, x, range(last), "is the batch or the time of packed sequences", "use the last axis for channels")
    kept = tuple(array for array in x if array.axes == (last,))
    passed = tuple(array._replace(axes=(rank - 1,), zero=array.zero and bool(node.attrs["zero"])) for array in kept)
    return [passed, *[() for _ in node.outputs[1:]]]


def _parts(tensors: Sequence[tuple[Value | None, Layout]], per: int) -> Iterator[list[Tensor]]:
    present = [(value, layout) for value, layout in tensors if value is not None]
    return iter([present[start : start + per] for start in range(0, len(present), per)])


def _direction(eq: Equations, node: Node, inner: Labels, part: list[Tensor], steps: int) -> tuple[Labels, Labels]:
    """Tie the weights of one direction of one layer; returns the labels of its cell state and of what it shows."""
    gates = int(node.attrs["gates"])
    (of_input, of_state), projection = part[:2], part[-1] if node.attrs["projected"] else None
    rows, reads = _line(eq, of_input, 0), _line(eq, of_state, 1)
    units = rows.reshape(gates, -1)[0]
    eq.tie(rows.reshape(gates, -1), units, "is a hidden unit, which has a row in every gate")
    eq.tie(_line(eq, of_input, 1), inner, NO_CHANNELS)
    visible = units
    eq.macs.append((node, Product(float(steps), (rows, inner), (1, 1))))
    eq.macs.append((node, Product(float(steps), (rows, reads), (1, 1))))
    for tensor in part[1 : len(part) - (projection is not None)]:
        eq.tie(_line(eq, tensor, 0), rows, NO_CHANNELS)
    if projection is not None:
        visible = _line(eq, projection, 0)
        eq.tie(_line(eq, projection, 1), units, NO_CHANNELS)
        eq.macs.append((node, Product(float(steps), (visible, units), (1, 1))))
    eq.tie(reads, visible, NO_CHANNELS)
    return units, visible


def _state(eq: Equations, value: Value | None, layout: Layout, rows: Labels) -> bool:
    """Tie an initial state with the units (one row per layer and direction); True where dropped units start at zero."""
    assert value is not None
    last = len(value.shape) - 1
    shared = {(last,): rows[:1] if value.kind == "uniform" else rows, (0, last): rows}
    found = False
    for array in layout:
        if array.axes in shared:
            eq.tie(shared[array.axes], array.labels)
            found = array.zero
        else:
            eq.lock(array.labels, "is the layer or the batch of a recurrent state")
    if not any(last in array.axes for array in layout):
        text, unlock = "starts from a state whose size is fixed", "leave the initial state out, or make it with zeros()"
        eq.lock(rows, text, unlock)
    return found


def _stacked(value: Value, rows: list[Labels], zero: bool) -> Layout:
    """The layout of a final state: a row of units per layer and direction."""
    last = len(value.shape) - 1
    return (Array((last,), rows[0], zero) if len(rows) == 1 else Array((0, last), np.stack(rows), zero),)


def _line(eq: Equations, tensor: Tensor, axis: int) -> Labels:
    value, layout = tensor
    return line(eq, layout, axis, value.shape[axis])
