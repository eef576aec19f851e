"""Which stored tensors are weights that inputs are multiplied with, and how each looks as a stack of matrices.

Only these may get single zeros: convolutions, linear layers (attention projections among them) and products with a
stored matrix. Biases, norms, lookups (embeddings, also where they are tied to a head) and recurrent layers stay as
they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, Node, Shape, Value


@dataclass(frozen=True)
class WeightMatrix:
    """A weight as an array (groups, outputs, kernel, inputs), whose last two axes are summed over.

    `split` is the shape with groups apart, `order` the permutation that follows, `shape` the four sizes. `source` is
    the name of the value that it is multiplied with: weights of one source see the same inputs.
    """

    name: str
    split: Shape
    order: tuple[int, ...]
    shape: tuple[int, int, int, int]
    source: str

    def matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        """(groups, outputs, kernel, inputs) from the stored form."""
        matrix: NDArray[Any] = weight.reshape(self.split).transpose(self.order).reshape(self.shape)
        return matrix

    def stored(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The stored form from (groups, outputs, kernel, inputs)."""
        sizes = tuple(self.split[axis] for axis in self.order)
        whole = matrix.reshape(sizes).transpose(np.argsort(self.order))
        return np.ascontiguousarray(whole.reshape(self.stored_shape))

    @property
    def stored_shape(self) -> Shape:
        """The shape of the stored tensor: `split` with the groups put back."""
        return self.split[1:] if self.split[0] == 1 else (self.split[0] * self.split[1], *self.split[2:])

    @property
    def size(self) -> int:
        """How many weights there are."""
        return prod(self.shape)


def weight_matrices(graph: Graph) -> dict[str, WeightMatrix]:
    """The weights of a graph by name, in the order in which they are used.

    ```python
    import torch, graphprune
    from graphprune.matrices import weight_matrices

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, groups=2))
    analysis = graphprune.analyze(net, torch.randn(1, 3, 8, 8))
    print([(weight.name, weight.shape) for weight in weight_matrices(analysis.graph).values()])
    ```
    """
    views: dict[str, _View] = {}
    found: dict[str, WeightMatrix] = {}
    refused: set[str] = set()
    for node in graph.nodes:
        used = [(value, views[value.name]) for value in node.inputs if value is not None and value.name in views]
        used += [
            (value, _View(value.name, tuple(range(len(value.shape))), False))
            for value in node.inputs
            if value is not None and value.is_leaf and _may_be_sparse(value)
        ]
        for value, view in used:
            moved = _moved(node, view)
            if moved is not None:
                views.update((output.name, moved) for output in node.outputs)
                continue
            seen = _contracted(graph, node, value, view)
            if seen is None or seen.order != found.setdefault(view.leaf, seen).order:
                refused.add(view.leaf)
    return {name: weight for name, weight in found.items() if name not in refused}


class _View(NamedTuple):
    """A stored tensor after permutations of its axes, and perhaps a part of it along its first one."""

    leaf: str
    order: tuple[int, ...]
    partial: bool


def _may_be_sparse(value: Value) -> bool:
    return value.kind == "parameter" and len(value.shape) > 1 and "float" in value.dtype


def _moved(node: Node, view: _View) -> _View | None:
    """The view that a node makes of a view; None where it does something else."""
    if node.op == "permute":
        order = node.attrs["order"]
        return view._replace(order=tuple(view.order[axis] for axis in order))
    if node.op == "split" and node.attrs.get("axis") == 0 and view.order[0] == 0:  # queries, keys, values
        return view._replace(partial=True)
    return view if node.op == "identity" and len(node.outputs) == 1 else None


def _contracted(graph: Graph, node: Node, value: Value, view: _View) -> WeightMatrix | None:
    """How a node multiplies with a weight; None where it does something else with it."""
    place = next(index for index, item in enumerate(node.inputs) if item is value)
    axes = _AXES[node.op](node, place, len(value.shape)) if node.op in _AXES else None
    if axes is None:
        return None
    groups, outer, inner, batch = axes
    leaf = graph.leaves[view.leaf]
    outer, inner = view.order[outer], view.order[inner]
    batch = tuple(view.order[axis] for axis in batch)
    source = node.inputs[1 - place if node.op == "matmul" else _SOURCE.get(node.op, 0)]
    if view.partial and (outer != 0 or groups > 1) or source is None:
        return None
    split = (groups, leaf.shape[0] // groups, *leaf.shape[1:])
    others = tuple(axis for axis in range(len(leaf.shape)) if axis not in (outer, inner, *batch))
    order = (0, *(axis + 1 for axis in (*batch, outer, *others, inner)))
    sizes = [prod(split[axis + 1] for axis in axes) for axes in (batch, (outer,), others, (inner,))]
    return WeightMatrix(view.leaf, split, order, (groups * sizes[0], *sizes[1:]), source.name)  # type: ignore[arg-type]


_Axes = tuple[int, int, int, tuple[int, ...]]
"""Groups along axis 0; the axis of outputs; the axis of inputs; axes over which nothing is shared (batches)."""


def _conv(node: Node, place: int, rank: int) -> _Axes | None:
    transposed = bool(node.attrs.get("transposed"))
    return (int(node.attrs.get("groups", 1)), int(transposed), int(not transposed), ()) if place == 1 else None


def _linear(node: Node, place: int, rank: int) -> _Axes | None:
    return (1, 0, 1, ()) if place == 1 else None


def _matmul(node: Node, place: int, rank: int) -> _Axes | None:
    outer, inner = (rank - 1, rank - 2) if place == 1 else (rank - 2, rank - 1)
    return 1, outer, inner, tuple(range(rank - 2))


def _addmm(node: Node, place: int, rank: int) -> _Axes | None:
    return (1, 1, 0, ()) if place == 2 and rank == 2 else None


_AXES = {"conv": _conv, "linear": _linear, "matmul": _matmul, "addmm": _addmm}
"""Operation -> how it reads a weight at a place among its inputs."""

_SOURCE = {"addmm": 1}


def by_source(weights: dict[str, WeightMatrix]) -> Iterator[list[WeightMatrix]]:
    """The weights in order, those together that follow each other and see the same inputs."""
    stage: list[WeightMatrix] = []
    for weight in weights.values():
        if stage and weight.source != stage[0].source:
            yield stage
            stage = []
        stage.append(weight)
    if stage:
        yield stage
