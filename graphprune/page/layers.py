"""Layer by layer: where parameters and multiply-accumulates lie, how wide outputs are, and what a decision leaves."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cost import leaf_product
from ..errors import PlanError
from ..graph import Node, Value
from ..labels import Labels, Product
from ..layout import covering

if TYPE_CHECKING:
    from ..analysis import Analysis
    from ..masks import Masks
    from ..plan import Plan

Alive = NDArray[np.bool_]

CHANNELS_LAST = ("linear", "matmul", "addmm", "bilinear", "embedding", "grouped_matmul", "recurrent")
"""Operations with a stored weight whose output channels are the last axis of their result."""


class Pair(NamedTuple):
    """A figure before and after."""

    before: int
    after: int


@dataclass
class Layer:
    """What one stored weight does: the operations that read it, their costs, and the widths that they connect.

    `width` counts output channels; None where the operation has no one axis of them. `reads` and `writes` are families
    of `graphprune.units`: the widths it takes channels from, and those that it gives channels to. `weighty` tells
    layers that multiply, or store a matrix, from norms and the like.
    """

    name: str
    op: str
    params: Pair = Pair(0, 0)
    macs: Pair = Pair(0, 0)
    width: Pair | None = None
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    weighty: bool = False


def alive_after(analysis: "Analysis", plan: "Plan | None") -> Alive:
    """Which classes stay alive under a plan; all of them without one. Raises `PlanError` for that of another model."""
    alive = np.ones(analysis.solution.count, dtype=bool)
    if plan is None:
        return alive
    if plan.fingerprint != analysis.fingerprint:
        raise PlanError(
            "this plan was made for another model: names and shapes of its tensors are not those of this one"
        )
    for name, axes in plan.kept.items():
        for axis, index in axes.items():
            classes = analysis.leaf_classes[name, axis]
            kept = np.zeros(classes.shape, dtype=bool)
            np.put_along_axis(kept, index, True, axis=-1)
            alive[classes[~kept]] = False
    return alive


def elements_left(analysis: "Analysis", alive: Alive, masks: "Masks | None" = None) -> dict[str, Pair]:
    """Elements of every stored tensor before and after; where weights are masked, those that may differ from zero."""
    masked = {} if masks is None else {name: int(kept.sum()) for name, kept in masks.kept.items()}
    living, found = alive[analysis.solution.classes], {}
    for name, leaf in analysis.graph.leaves.items():
        left = masked[name] if name in masked else round(_value(leaf_product(analysis, name), living))
        found[name] = Pair(prod(leaf.shape), left)
    return found


def layers_of(
    analysis: "Analysis", alive: Alive, family_of: Labels, elements: Mapping[str, Pair] | None = None
) -> list[Layer]:
    """All layers in the order of the program; their parameters and MACs add up to those of the model.

    `family_of` is the family of every class, -1 for classes of no stored tensor; `elements` as of `elements_left`.
    """
    graph, layers, taken = analysis.graph, dict[str, Layer](), set[str]()
    elements = elements or elements_left(analysis, alive)
    macs = _macs(analysis, alive)
    for node, own, data in _stored(graph.nodes):
        node_macs = macs.get(id(node), Pair(0, 0))
        if not own and not node_macs.before:
            continue
        key = max(own, key=lambda leaf: prod(leaf.shape)).name if own else f"{node} {id(node)}"
        layer = layers.setdefault(key, Layer(_name(node, key if own else ""), node.op))
        layer.macs = _sum(layer.macs, node_macs)
        for leaf in own:
            if leaf.kind == "parameter" and leaf.name not in taken:
                taken.add(leaf.name)
                layer.params = _sum(layer.params, elements[leaf.name])
        matrix = any(sum(size > 1 for size in leaf.shape) > 1 for leaf in own)
        layer.weighty |= matrix or node_macs.before > 0
        if matrix:
            _connect(analysis, layer, data, node.outputs, own, family_of)
            layer.width = layer.width or _width(analysis, alive, node)
    unused = [leaf.name for leaf in graph.leaves.values() if leaf.kind == "parameter" and leaf.name not in taken]
    loose = macs.get(id(None), Pair(0, 0))
    if unused or loose.before:
        rest = Layer("elsewhere", "not read by a layer", macs=loose)
        for name in unused:
            rest.params = _sum(rest.params, elements[name])
        layers["elsewhere"] = rest
    return list(layers.values())


def _sum(first: Pair, second: Pair) -> Pair:
    return Pair(first.before + second.before, first.after + second.after)


def _macs(analysis: "Analysis", alive: Alive) -> dict[int, Pair]:
    """MACs of every node that runs at inference, by id."""
    living, found = alive[analysis.solution.classes], dict[int, Pair]()
    for node, product in analysis.equations.macs:
        if node is None or node.measured:
            pair = Pair(round(_value(product, None)), round(_value(product, living)))
            found[id(node)] = _sum(found.get(id(node), Pair(0, 0)), pair)
    return found


def _value(product: Product, living: Alive | None) -> float:
    counts = [labels.size if living is None else int(living[labels].sum()) for labels in product.arrays]
    return product.coefficient * prod(count / share for count, share in zip(counts, product.shares, strict=True))


def _stored(nodes: Iterable[Node]) -> Iterable[tuple[Node, list[Value], list[Value]]]:
    """Every node that computes with more than stored tensors, the stored tensors that it reads, and the other values.

    What only rearranges stored tensors (a transposed or dequantised weight) is seen through.
    """
    sources: dict[int, dict[str, Value]] = {}
    for node in nodes:
        own: dict[str, Value] = {}
        data: list[Value] = []
        for value in node.inputs:
            if value is None:
                continue
            if value.is_leaf:
                own[value.name] = value
            elif id(value) in sources:
                own |= sources[id(value)]
            else:
                data.append(value)
        if data or not node.inputs:
            yield node, list(own.values()), data
        else:
            sources |= {id(value): own for value in node.outputs}


def _name(node: Node, weight: str) -> str:
    """The module of a weight where its name tells one, otherwise what the node is called."""
    found = re.fullmatch(r"(.+?)[._]weight(_\w+)?", weight)
    if found:
        return found[1]
    return (node.scope.rpartition(": ")[0] or node.scope or node.name) if not weight or node.scope else weight


def _connect(
    analysis: "Analysis",
    layer: Layer,
    data: Iterable[Value],
    results: Iterable[Value],
    own: Iterable[Value],
    family_of: Labels,
) -> None:
    """Note which of the widths that the weights have come in, and which go out."""
    classes = analysis.leaf_classes
    axes = [(leaf.name, axis) for leaf in own for axis in range(len(leaf.shape)) if (leaf.name, axis) in classes]
    touched = {int(family) for key in axes for family in np.unique(family_of[classes[key]])}
    for values, known in ((data, layer.reads), (results, layer.writes)):
        for value in values:
            for array in analysis.layouts.get(value, ()):
                families = np.unique(family_of[analysis.solution.classes[array.labels]]).tolist()
                known.extend(one for one in families if one in touched and one not in known)


def _width(analysis: "Analysis", alive: Alive, node: Node) -> Pair | None:
    """Output channels of an operation with a weight."""
    value = node.outputs[0]
    if node.op == "conv":
        weight = node.inputs[1]
        place = len(value.shape) + 1 - len(weight.shape) if weight is not None else 1
    elif node.op in CHANNELS_LAST:
        place = len(value.shape) - 1
    else:
        return None
    array = covering(analysis.layouts.get(value, ()), place)
    if array is None:
        return Pair(value.shape[place], value.shape[place])
    if array.axes != (place,):
        return None
    return Pair(value.shape[place], int(alive[analysis.solution.classes[array.labels]].sum()))
