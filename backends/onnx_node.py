"""One ONNX node as converters see it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from .folding import constant_of
from .rewriting import dtype_of

Converter = Callable[["Node"], relax.Expr]


@dataclass(frozen=True)
class Node:
    """Inputs as expressions (None where left out), attributes, names of the results, the opset of the model.

    `standard(inputs, attributes)` is what TVM's importer makes of such a node.
    """

    builder: relax.BlockBuilder
    inputs: list[relax.Expr | None]
    attributes: dict[str, Any]
    names: list[str]
    opset: int
    standard: Callable[[list[relax.Expr | None], dict[str, Any]], relax.Expr]

    @property
    def data(self) -> relax.Expr:
        """The first input."""
        return self.inputs[0]

    def input(self, index: int) -> relax.Expr | None:
        """An input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> np.ndarray | None:
        """An input as a numpy array, or None where it is left out or not constant."""
        value = self.input(index)
        return None if value is None else constant_of(value)

    def value(self, expr: relax.Expr) -> np.ndarray | None:
        """An expression as a numpy array, or None where it is not constant."""
        return constant_of(expr)

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def scalar(self, number: float) -> relax.Expr:
        """A number of the type of the first input."""
        return relax.const(number, dtype_of(self.data))

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """A variable for an intermediate result; constants stay constants."""
        return expr if constant_of(expr) is not None else self.builder.emit(expr)

    def tvm(self, **attributes: Any) -> relax.Expr:
        """What TVM's importer makes of this node, with some attributes replaced (dropped where None)."""
        merged = {name: value for name, value in {**self.attributes, **attributes}.items() if value is not None}
        return self.standard(self.inputs, merged)
