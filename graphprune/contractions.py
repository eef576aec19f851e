"""Products with a stored weight of their own, as the nodes of a graph tell them, and the weight as a plain matrix.

A convolution is a linear layer on patches, a transposed one a convolution on an input spread out with zeros.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Node, Value

Array = NDArray[Any]

OPERANDS: dict[str, tuple[int, int]] = {
    "linear": (0, 1),
    "conv": (0, 1),
    "matmul": (0, 1),
    "addmm": (1, 2),
}
"""Operation -> which of its inputs are the data and the weight."""


@dataclass(frozen=True, eq=False)
class Contraction:
    """One product with a stored weight and perhaps a bias, by their names, that nothing else reads."""

    node: Node
    weight: str
    bias: str | None
    groups: int
    transposed: bool

    @property
    def is_convolution(self) -> bool:
        """Whether it slides over its input."""
        return self.node.op == "conv"

    @property
    def stores_inputs_first(self) -> bool:
        """Whether the first axis of the weight is that of the inputs."""
        return self.transposed or self.node.op in ("matmul", "addmm")

    @property
    def input_axis(self) -> int:
        """The axis of the weight along which inputs are summed up."""
        return 0 if self.stores_inputs_first else 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has a kernel of its own."""
        value, weight = self.node.inputs[0], self.node.inputs[1]
        return self.groups > 1 and value is not None and weight is not None and self.groups == weight.shape[0]

    @property
    def channel_axis(self) -> int:
        """The axis of the output, counted from its end, that holds the output channels."""
        value = self.node.inputs[1]
        return 1 - len(value.shape) if self.is_convolution and value is not None else -1


def contraction_of(node: Node) -> Contraction | None:
    """How a node contracts its input with a weight of its own; None for other nodes."""
    if not is_product(node) or refusal_of(node):
        return None
    weight = _input(node, OPERANDS[node.op][1])
    bias = _input(node, 0 if node.op == "addmm" else 2)
    assert weight is not None
    groups, transposed = int(node.attrs.get("groups", 1)), bool(node.attrs.get("transposed"))
    return Contraction(node, weight.name, None if bias is None else bias.name, groups, transposed)


def is_product(node: Node) -> bool:
    """Whether a node multiplies what is computed with a stored weight."""
    if node.op not in OPERANDS or not node.measured:
        return False
    data, weight = (_input(node, place) for place in OPERANDS[node.op])
    return data is not None and weight is not None and not data.is_leaf and weight.is_leaf


def refusal_of(node: Node) -> str:
    """Why the weight of a product is not one that can be looked at and moved alone; empty where it is."""
    weight = _input(node, OPERANDS[node.op][1])
    bias = _input(node, 0 if node.op == "addmm" else 2)
    assert weight is not None
    if weight.uses != 1:
        return f"its weight is used {weight.uses} times"
    if weight.kind != "parameter":
        return "its weight is not a parameter"
    if len(weight.shape) < 2 or node.op in ("matmul", "addmm") and len(weight.shape) != 2:
        return "it is no product with a matrix"
    if node.attrs.get("scaled"):
        return "its result is scaled"
    if bias is not None and not (bias.is_leaf and bias.kind == "parameter"):
        return "its bias is not a parameter"
    if bias is not None and bias.uses != 1:
        return f"its bias is used {bias.uses} times"
    return ""


def _input(node: Node, place: int) -> Value | None:
    return node.inputs[place] if place < len(node.inputs) else None


def matrix_of(contraction: Contraction, weight: Array) -> Array:
    """A weight as (groups, features per group, channels per group): features times it give channels."""
    groups = contraction.groups
    if not contraction.is_convolution:
        return (weight if contraction.stores_inputs_first else weight.T)[None]
    if contraction.transposed:
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return np.moveaxis(_flipped(split), 2, -1).reshape(groups, -1, weight.shape[1])
    return np.asarray(weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1))


def features_of(contraction: Contraction, shape: tuple[int, ...]) -> int:
    """How many features per group a weight of this shape is multiplied with."""
    groups = contraction.groups if contraction.transposed else 1
    return shape[contraction.input_axis] // groups * (prod(shape[2:]) if contraction.is_convolution else 1)


def by_kernel(contraction: Contraction, weight: Array) -> Array:
    """The matrix of a weight with its features apart: (groups, channels in, positions of the kernel, channels out)."""
    matrix, kernel = matrix_of(contraction, weight), prod(weight.shape[2:]) if contraction.is_convolution else 1
    return np.asarray(matrix.reshape(matrix.shape[0], -1, kernel, matrix.shape[2]))


def weight_of(contraction: Contraction, matrix: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `matrix_of`: a weight of this shape."""
    if not contraction.is_convolution:
        weight = matrix[0] if contraction.stores_inputs_first else matrix[0].T
    elif contraction.transposed:
        split = matrix.reshape(contraction.groups, shape[0] // contraction.groups, *shape[2:], shape[1])
        weight = _flipped(np.moveaxis(split, -1, 2))
    else:
        weight = matrix.transpose(0, 2, 1)
    return np.asarray(weight.reshape(shape))


def _flipped(split: Array) -> Array:
    """(groups, in, out, kernel...) with the kernel the other way round."""
    return np.flip(split, tuple(range(3, split.ndim)))
