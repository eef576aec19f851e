"""What a plan predicts for every node: living positions, shapes, bounds of slices. Frontends check against it."""

from collections.abc import Iterator
from math import isclose, nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import PlanError
from .graph import Graph, Node, Shape, Value
from .labels import Array, Labels
from .layout import covering

if TYPE_CHECKING:
    from .analysis import Analysis
    from .plan import Plan

Alive = NDArray[np.bool_]


def living(analysis: "Analysis", plan: "Plan") -> Alive:
    """Which labels a plan keeps. Raises `PlanError` where it drops part of a group, or what is locked."""
    classes, dead = analysis.solution.classes, np.zeros(analysis.solution.count, dtype=bool)
    drops = {
        (name, axis): dropped_positions(index, analysis.leaf_classes[name, axis], name, axis)
        for name, axes in plan.kept.items()
        for axis, index in axes.items()
        if (name, axis) in analysis.leaf_classes
    }
    for key, dropped in drops.items():
        dead[analysis.leaf_classes[key][dropped]] = True
    for (name, axis), members in analysis.leaf_classes.items():
        expected = drops.get((name, axis), np.zeros(members.shape, dtype=bool))
        if (dead[members] != expected).any():
            raise PlanError(
                f"this plan drops positions that are coupled with axis {axis} of {name}, but keeps them there: "
                "it was made for another program, or edited"
            )
    locked = analysis.solution.locked[dead & (analysis.solution.locked >= 0)]
    if locked.size:
        raise PlanError(f"this plan drops positions that are locked here: {analysis.equations.locks[locked[0]][1]}")
    return np.asarray(~dead[classes])


def dropped_positions(index: NDArray[np.int64], members: NDArray[np.int64], name: str, axis: int) -> Alive:
    """Which positions of an axis go where a plan keeps `index`: of its classes' form, one row per block."""
    dropped = np.ones(members.shape, dtype=bool)
    if index.ndim != members.ndim:
        raise PlanError(f"this plan slices axis {axis} of {name} in blocks that this program does not have")
    if index.ndim == 1:
        dropped[index] = False
    else:
        np.put_along_axis(dropped, index, False, axis=1)
    return dropped


def shape_of(value: Value, layout: tuple[Array, ...], alive: Alive) -> Shape:
    """The shape that a value has once the plan is applied."""
    shape = list(value.shape)
    for array in layout:
        counts = alive[array.labels]
        for position, axis in enumerate(array.axes):  # rows that live are alike, so the fullest one tells
            others = tuple(other for other in range(counts.ndim) if other != position)
            if position == 0:
                shape[axis] = int(counts.any(axis=others).sum()) if others else int(counts.sum())
            else:
                shape[axis] = int(counts.any(axis=tuple(range(position + 1, counts.ndim))).sum(axis=position).max())
    return tuple(shape)


def bound_of(layout: tuple[Array, ...], axis: int, position: int, alive: Alive) -> int:
    """Where a position of an axis lies once the positions before it are dropped."""
    array = covering(layout, axis)
    if array is None or position == 0:
        return position
    if len(array.axes) == 1:
        return int(alive[array.labels[:position]].sum())
    where = array.axes.index(axis)
    begun = alive[array.labels].take(range(position), where)
    if where == 0:  # a row lives while anything of it does
        return int(begun.reshape(position, -1).any(axis=1).sum())
    return int(begun.any(axis=tuple(range(where + 1, begun.ndim))).sum(axis=where).max())


def _cut(layout: tuple[Array, ...], alive: Alive, axis: int, start: int, stop: int, step: int) -> tuple[int, ...]:
    """A slice once positions are dropped: a stride begins at the same place of a window that is left."""
    first = start - start % step
    return (axis, bound_of(layout, axis, first, alive) + start % step, bound_of(layout, axis, stop, alive), step)


def looked_up(kept: Alive, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the positions that stay lie among those kept."""
    return (np.cumsum(kept) - 1)[positions[kept[positions]]]


def eps_key(node: Node) -> str:
    """The attribute that holds the eps of a norm: of the whole norm, or of the node that adds it."""
    return "eps" if node.op == "rms_norm" else "value"


def grown_eps(node: Node, plan: "Plan") -> float | None:
    """What the eps of a repaired norm becomes; None for nodes that hold none."""
    scale = node.attrs.get("grows")
    return float(node.attrs[eps_key(node)] * plan.repairs[scale][0]) if scale in plan.repairs else None


def attributes_of(node: Node, analysis: "Analysis", plan: "Plan", alive: Alive) -> dict[str, Any]:
    """The attributes of a node that a plan changes, with their new values."""
    first = node.inputs[0] if node.inputs else None
    if node.op == "getitem" and first is not None:
        layout = analysis.layouts[first]
        return {"cuts": [_cut(layout, alive, *cut) for cut in node.attrs["cuts"]]}
    grown = grown_eps(node, plan)
    if grown is not None:
        return {eps_key(node): grown}
    if node.op == "roll" and first is not None:
        layout, sizes = analysis.layouts[first], first.shape
        after = shape_of(first, layout, alive)
        bounds = {axis: bound_of(layout, axis, sizes[axis] - s, alive) for axis, s in node.attrs["shifts"].items()}
        return {"shifts": {axis: after[axis] - bound for axis, bound in bounds.items()}}
    if node.op == "index" and first is not None and node.attrs.get("positions") is not None:
        array = covering(analysis.layouts[first], node.attrs["axis"])
        return {} if array is None else {"positions": looked_up(alive[array.labels], node.attrs["positions"])}
    if node.op in ("conv", "group_norm"):
        weight = node.inputs[1]
        return {"groups": plan.groups.get(weight.name if weight else "", node.attrs["groups"])}
    return {}


class Mismatch(NamedTuple):
    """One thing that a pruned program does differently: what, the labels of what should have gone there, and where."""

    text: str
    labels: Labels
    node: Node


FIXED = ("value", "scale", "low", "high")
"""Attributes that hold numbers to compute with: pruning never changes them."""


SHIFTS = {"identity", "add", "sub"}
"""What adding a number is called; adding none changes nothing."""


def mismatches(analysis: "Analysis", plan: "Plan", slim: Graph, alive: Alive) -> Iterator[Mismatch]:
    """What a trace of the pruned program does differently from what the labels predict, first things first.

    A trace that breaks off ends with the node at which it does. Where real numbers were needed to trace, only axes of
    channels are compared after the first operation whose result they size: how many boxes a detector finds.
    """
    nodes, ragged = analysis.graph.nodes, set[Value]()
    for number, (before, after) in enumerate(zip(nodes, slim.nodes, strict=False)):
        if analysis.graph.numeric and _is_ragged(before, ragged):
            ragged.update(before.outputs)
        if before.op != after.op and not (SHIFTS >= {before.op, after.op} and not ragged.isdisjoint(before.outputs)):
            text = f"{before} runs {before.op} before and {after.op} after: its code depends on sizes"
            yield Mismatch(text, _changing(analysis, number, alive), before)
            return
        for text in _differences(before, after, analysis, plan, alive, ragged):
            yield Mismatch(text, _changing(analysis, number, alive), before)
    if len(nodes) != len(slim.nodes):
        text = f"{len(nodes)} operations before, {len(slim.nodes)} after: the code depends on sizes"
        last = min(len(slim.nodes), len(nodes) - 1)
        yield Mismatch(text, _changing(analysis, last, alive, reached=False), nodes[last])


def _differences(
    before: Node, after: Node, analysis: "Analysis", plan: "Plan", alive: Alive, ragged: set[Value]
) -> Iterator[str]:
    def free(value: Value | None) -> tuple[int, ...]:
        return _without_channels(value, analysis) if value is not None and value in ragged else ()

    for place, (old, new) in enumerate(zip(before.outputs, after.outputs, strict=False)):
        if place and not old.uses:  # by-products, such as the statistics of a norm
            continue
        expected = shape_of(old, analysis.layouts[old], alive)
        if not _fits(new.shape, expected, free(old)):
            yield f"{before} gives shape {new.shape} where {expected} is right: a size is written into the code"
    if before.attrs.get("projected") and after.outputs[-1].shape[-1] <= after.outputs[-2].shape[-1]:
        yield f"{before} keeps no more units than it projects to, and torch refuses such a layer"
    predicted = attributes_of(before, analysis, plan, alive)
    for key, value in predicted.items():
        if not _alike(key, value, after, free(before.inputs[0])):
            yield f"{before} uses {key} {after.attrs.get(key)} where {value} is right"
    for key in FIXED:
        left, right = before.attrs.get(key), after.attrs.get(key)
        same = left == right or (left != left and right != right)
        if key not in predicted and not same and ragged.isdisjoint(before.outputs):
            yield f"{before} computes with {right} where {left} is right: a number in the code depends on sizes"


def shrinking(analysis: "Analysis", node: Node, alive: Alive, reached: bool = True) -> Labels:
    """All labels of the arrays around a node from which something is dropped.

    Those that flow through it come first (into it, where it was not reached), then those of its parameters.
    """
    inputs = [value for value in node.inputs if value is not None]
    flowing = [value for value in inputs if not value.is_leaf]
    for values in ([*flowing, *node.outputs] if reached else flowing, [*inputs, *node.outputs]):
        arrays = [array.labels.ravel() for value in values for array in analysis.layouts.get(value, ())]
        changing = [labels for labels in arrays if not alive[labels].all()]
        if changing:
            return np.concatenate(changing)
    return np.zeros(0, dtype=np.int64)


def _changing(analysis: "Analysis", number: int, alive: Alive, reached: bool = True) -> Labels:
    """What shrinks around a node, or around the last one before it where anything does."""
    found = (shrinking(analysis, node, alive, reached) for node in reversed(analysis.graph.nodes[: number + 1]))
    return next((labels for labels in found if labels.size), np.zeros(0, dtype=np.int64))


def changing_scopes(analysis: "Analysis", alive: Alive) -> set[str]:
    """The paths of the modules whose own code works on something that shrinks."""
    changed = {
        value for value, layout in analysis.layouts.items() if any(not alive[array.labels].all() for array in layout)
    }
    return {node.scope for node in analysis.graph.nodes if not changed.isdisjoint((*node.inputs, *node.outputs))}


def _fits(found: Shape, expected: Shape, free: tuple[int, ...]) -> bool:
    """Whether two shapes are equal but for free axes."""
    pairs = enumerate(zip(found, expected, strict=False))
    return len(found) == len(expected) and all(one == other or axis in free for axis, (one, other) in pairs)


def _is_ragged(node: Node, ragged: set[Value]) -> bool:
    """Whether the sizes of what a node gives may depend on numbers, or on sizes that do."""
    if node.op == "unknown" or node.attrs.get("ragged"):
        return True
    return not ragged.isdisjoint(node.inputs) or bool(ragged) and not node.inputs


def _without_channels(value: Value, analysis: "Analysis") -> tuple[int, ...]:
    """The axes of a value that no stored tensor shares."""
    covers = [covering(analysis.layouts[value], axis) for axis in range(len(value.shape))]
    classes = analysis.solution.classes
    return tuple(
        axis for axis, array in enumerate(covers) if array is None or not analysis.stored[classes[array.labels]].any()
    )


def _alike(key: str, expected: Any, after: Node, free: tuple[int, ...]) -> bool:
    """Whether an attribute is as expected; of slices, those along free axes may be anything."""
    if key == "positions":
        return np.array_equal(expected, after.attrs.get(key, ()))
    if isinstance(expected, float):  # written in the precision of the model
        return isclose(after.attrs.get(key, nan), expected, rel_tol=1e-6)
    if key != "cuts":
        return bool(after.attrs.get(key) == expected)
    value = after.inputs[0]
    sizes = value.shape if value is not None else ()
    return _real_cuts(expected, sizes, free) == _real_cuts(after.attrs["cuts"], sizes, free)


def _real_cuts(cuts: Any, sizes: Shape, free: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Cuts that cut something: x[:, :8] of 8 channels is the whole axis."""
    return sorted(tuple(cut) for cut in cuts if cut[0] not in free and tuple(cut[1:]) != (0, sizes[cut[0]], 1))
