"""Write an operator as several others, in the dialect of the opset that the model uses."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray


class CannotExpand(Exception):
    """An operator has no expansion here: an option is not covered, or a shape or a number is not known."""


class Builder:
    """Collects the nodes that stand for one node.

    `inputs` are those of the node, padded with None; `shape`, `number` and `attr` say what is known of it.
    Values whose shape was asked for and is not known are kept in `unknown`.
    """

    _serial = count()

    def __init__(self, node: ir.Node, opset: int) -> None:
        self.node, self.opset = node, opset
        self.inputs: tuple[ir.Value | None, ...] = (*node.inputs, *[None] * 16)
        self.nodes: list[ir.Node] = []
        self.unknown: list[ir.Value] = []

    def __call__(self, op: str, *inputs: "ir.Value | None", domain: str = "", **attrs: Any) -> ir.Value:
        """Add a node with one output, and return that."""
        return self.many(op, *inputs, outputs=1, domain=domain, **attrs)[0]

    def many(self, op: str, *inputs: "ir.Value | None", outputs: int, domain: str = "", **attrs: Any) -> list[ir.Value]:
        """Add a node and return its outputs."""
        given = ir.convenience.convert_attributes({key: item for key, item in attrs.items() if item is not None})
        node = ir.Node(domain, op, inputs, given, num_outputs=outputs, name=self.fresh_name())
        for value in node.outputs:
            value.name = self.fresh_name()
        self.nodes.append(node)
        return list(node.outputs)

    def fresh_name(self) -> str:
        """A name that nothing else has."""
        return f"{self.node.name or self.node.op_type}.wide.{next(self._serial)}"

    def const(self, numbers: ArrayLike, dtype: Any = np.float64) -> ir.Value:
        """A constant tensor."""
        array = np.array(numbers, dtype=dtype)
        return self("Constant", value=ir.tensor(array))

    def ints(self, numbers: ArrayLike) -> ir.Value:
        """A constant tensor of whole numbers."""
        return self.const(numbers, np.int64)

    def input(self, position: int) -> ir.Value:
        """An input that has to be there."""
        value = self.inputs[position]
        if value is None:
            raise CannotExpand(f"input {position} is missing")
        return value

    def shape(self, value: "ir.Value | None") -> tuple[int, ...]:
        """The shape of a value of the model. Raises `CannotExpand` where it is not known."""
        sizes = None if value is None else value.shape
        if value is not None and (sizes is None or not all(isinstance(size, int) for size in sizes)):
            self.unknown.append(value)
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            raise CannotExpand("a shape is not known")
        return tuple(int(size) for size in sizes)  # type: ignore[arg-type]

    def number(self, value: "ir.Value | None") -> NDArray[Any]:
        """The numbers of a stored tensor. Raises `CannotExpand` for what is computed."""
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if tensor is None:
            raise CannotExpand("a number is not known")
        return tensor.numpy()

    def attr(self, name: str, default: Any = None) -> Any:
        """The value of an attribute of the node."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A value in another dtype."""
        return self("Cast", value, to=int(dtype))

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """A value in another shape; 0 keeps a size, -1 is what is left."""
        return self("Reshape", value, self.ints(list(shape)))

    def reduce(self, op: str, value: ir.Value, axes: Sequence[int], keepdims: bool = True) -> ir.Value:
        """A reduction; axes have been an input since opset 18 (of sums since 13)."""
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self(op, value, self.ints(list(axes)), keepdims=int(keepdims))
        return self(op, value, axes=list(axes), keepdims=int(keepdims))

    def clip(self, value: ir.Value, low: float | None, high: float | None) -> ir.Value:
        """A value between two bounds."""
        if self.opset < 8:  # maximum and minimum are there in float32 only
            if low is not None:
                value = self("Add", self("Relu", self("Sub", value, self.const(low))), self.const(low))
            if high is not None:
                value = self("Sub", self.const(high), self("Relu", self("Sub", self.const(high), value)))
            return value
        if low is not None:
            value = self("Max", value, self.const(low))
        return value if high is None else self("Min", value, self.const(high))

    def discard(self) -> None:
        """Forget all nodes, so that they read nothing any more."""
        for node in self.nodes:
            for position in range(len(node.inputs)):
                node.replace_input_with(position, None)
        self.nodes.clear()
