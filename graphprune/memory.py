"""Peak activation memory: which results are needed at the same time, and how large each of them is.

The nodes run in the order of the graph. A result takes memory from the node that makes it to the last one that reads
it; inputs and outputs of the program take it to the end, for they belong to the caller. Three assumptions, which hold
for compiled code and ONNX Runtime, and for PyTorch where layers work in place:

- a change of shape (reshape, permute, slices, expand) is a view of what it reads;
- an element-wise operation, and a batch norm at inference, writes over an input of its size that nothing reads later;
- an operation needs no memory of its own beside its inputs and outputs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from .graph import Graph, Node, Value
from .labels import Product
from .rules import pointwise

if TYPE_CHECKING:
    from .analysis import Analysis

VIEWS = frozenset({"identity", "reshape", "as_complex", "permute", "split", "unbind", "getitem", "expand"})
"""Operations whose results lie in the memory of their first input."""


class Activations(NamedTuple):
    """`sizes`: bytes of every piece of memory; `needed`: (steps, pieces), 1 where a step needs a piece."""

    sizes: list[Product]
    needed: "csr_array[Any, tuple[int, int]]"


def itemsize(dtype: str) -> float:
    """Bytes of one element, by the name of its type: `itemsize("bfloat16")` is 2, `itemsize("int4")` 0.5."""
    digits = "".join(character if character.isdigit() else " " for character in dtype.partition("_")[0]).split()
    return int(digits[0]) / 8 if digits else 1.0


@dataclass
class _Piece:
    """One piece of memory: the value it is as large as, its first and last step, and what lies in it."""

    value: Value
    first: int
    last: int
    members: list[Value] = field(default_factory=list)


def activations(analysis: "Analysis") -> Activations:
    """Sizes of all pieces of memory as products of living positions, and the steps that need them."""
    pieces = lifetimes(analysis.graph)
    steps = max((piece.last for piece in pieces), default=0) + 1
    rows = np.concatenate([np.arange(piece.first, piece.last + 1) for piece in pieces] or [np.zeros(0, dtype=np.int64)])
    columns = np.repeat(np.arange(len(pieces)), [piece.last - piece.first + 1 for piece in pieces])
    needed = csr_array((np.ones(rows.size), (rows, columns)), shape=(steps, len(pieces)))
    return Activations([size_of(analysis, piece.value) for piece in pieces], needed)


def lifetimes(graph: Graph) -> list[_Piece]:
    """The pieces of memory of a program, by the assumptions above."""
    nodes = [node for node in graph.nodes if node.measured]
    last_read = {value: step for step, node in enumerate(nodes) for value in node.inputs if value is not None}
    end = max(len(nodes) - 1, 0)
    last_read |= dict.fromkeys(graph.outputs, end)
    pieces = [_Piece(value, 0, end, [value]) for value in graph.inputs]
    home: dict[Value, _Piece] = {piece.value: piece for piece in pieces}
    callers = set(map(id, pieces))
    for step, node in enumerate(nodes):
        shared = _shared(node, home, step, last_read, callers)
        for value in node.outputs:
            piece = shared or _Piece(value, step, step)
            if piece is not shared:
                pieces.append(piece)
            piece.members.append(value)
            piece.last = max(piece.last, step, last_read.get(value, step))
            home[value] = piece
    return pieces


def _shared(
    node: Node, home: dict[Value, _Piece], step: int, last_read: dict[Value, int], callers: set[int]
) -> _Piece | None:
    """The piece of memory of an input that the results lie in; None where they need one of their own."""
    known = [(value, home[value]) for value in node.inputs if value is not None and value in home]
    if node.op in VIEWS:
        return known[0][1] if known and known[0][0] is node.inputs[0] else None
    if len(node.outputs) > 1 or not _element_wise(node):
        return None
    result = node.outputs[0]
    for value, piece in known:
        fits = value.shape == result.shape and itemsize(value.dtype) == itemsize(result.dtype)
        whole = prod(value.shape) == prod(piece.value.shape)
        if fits and whole and id(piece) not in callers and _last(piece.members, last_read) <= step:
            return piece
    return None


def _last(members: Iterable[Value], last_read: dict[Value, int]) -> int:
    return max(last_read.get(value, 0) for value in members)


def _element_wise(node: Node) -> bool:
    from .ops import OPS

    return node.op == "batch_norm" or getattr(OPS.get(node.op), "__module__", "") == pointwise.__name__


def size_of(analysis: "Analysis", value: Value) -> Product:
    """Bytes of a value as a product of its living positions."""
    layout = analysis.layouts.get(value, ())
    covered = {axis for array in layout for axis in array.axes}
    fixed = prod(size for axis, size in enumerate(value.shape) if axis not in covered)
    arrays = tuple(array.labels for array in layout)
    return Product(itemsize(value.dtype) * fixed, arrays, (1,) * len(arrays))
