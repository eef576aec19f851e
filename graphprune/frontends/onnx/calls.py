"""One ONNX node as translations see it: inputs as values of our graph, attributes, known numbers, sizes of outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import GraphPruneError
from ...graph import Node, Shape, Value
from ...translation import Translated as Translated
from ...translation import Unsupported as Unsupported
from ...translation import axis_of as axis_of
from .inputs import grown, real_inputs
from .tracing import Trace, first_name, trace


@contextmanager
def fitting(node: ir.Node, kind: type[GraphPruneError]) -> Iterator[None]:
    """Whatever a node with odd operands makes numpy or a library raise becomes an error of ours that names the node."""
    try:
        yield
    except (GraphPruneError, Unsupported):
        raise
    except Exception as error:
        raise kind(f"{node.op_type} {node.name!r} has operands that do not fit: {error}") from error


def other_numbers(found: Trace) -> dict[str, NDArray[Any]]:
    """The numbers of a traced model where open axes of its inputs are larger; computed once."""
    if found.others is None:
        names = [value.name or "" for value in real_inputs(found.model)]
        sizes = grown(found.model, {name: found.shapes[name] for name in names})
        found.others = {} if sizes is None else trace(found.model, sizes).numbers
    return found.others


@dataclass
class Call:
    """A node of the model.

    `inputs` are values, None where left out; `shapes` those of the outputs. A translation that needs several canonical
    operations adds all but the last with `emit`; `emitted` collects them.
    """

    node: ir.Node
    trace: Trace
    inputs: tuple[Value | None, ...]
    shapes: tuple[Shape, ...]
    emitted: list[Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The type of the operator."""
        return self.node.op_type

    @property
    def version(self) -> int:
        """The version of the operator's domain that the model imports."""
        return self.trace.model.opset_imports.get(self.node.domain, 1)

    @property
    def x(self) -> Value:
        """The first input."""
        return self.tensor(0)

    def get(self, position: int) -> Value | None:
        """An input, or None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def tensor(self, position: int) -> Value:
        """An input that has to be there."""
        value = self.get(position)
        if value is None:
            raise Unsupported(f"{self.name} without its input {position}")
        return value

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as plain Python: number, text, list of numbers."""
        attr = self.node.attributes.get(name)
        if attr is None:
            return default
        if not isinstance(attr, ir.Attr) or attr.is_ref():
            raise Unsupported(f"{self.name} whose {name} is given from outside of its function")
        return list(attr.value) if isinstance(attr.value, (tuple, list)) else attr.value

    def numbers(self, position: int) -> NDArray[Any] | None:
        """The numbers of an input that is known; None where it is left out or not known."""
        value = self.get(position)
        return None if value is None else self.trace.numbers.get(value.name)

    def known(self, position: int, attribute: str = "") -> list[int] | None:
        """Whole numbers given as an attribute (older opsets) or as an input; None where there are none."""
        given = self.attr(attribute) if attribute else None
        if given is not None:
            return [int(item) for item in np.atleast_1d(given)]
        if self.get(position) is None:
            return None
        found = self.numbers(position)
        if found is None:
            raise Unsupported(
                f"{self.name} by sizes that depend on the data", "make them constants or sizes of tensors"
            )
        return [int(item) for item in found.ravel()]

    def varying(self, position: int) -> set[int]:
        """Places of the numbers of an input that follow the sizes of the program's inputs."""
        value = self.node.inputs[position] if position < len(self.node.inputs) else None
        if value is None or value.is_initializer() or value.producer() is None or self.numbers(position) is None:
            return set()
        now, other = self.trace.numbers[value.name or ""], other_numbers(self.trace).get(value.name or "")
        if other is None:
            return set()
        return set(np.flatnonzero(now != other).tolist()) if now.shape == other.shape else set(range(now.size))

    def number(self, position: int) -> float | int | None:
        """The one number of an input that holds nothing else, and no channels."""
        value, found = self.get(position), self.numbers(position)
        if value is None or found is None or found.size != 1 or value.name not in self.trace.plain:
            return None
        return found.reshape(()).item()  # type: ignore[no-any-return]

    def emit(
        self, op: str, inputs: Sequence[Value | None], attrs: dict[str, Any] | None = None, *shapes: Shape
    ) -> Value:
        """Add an operation before the last one; returns its first output."""
        number = len(self.emitted)
        base = first_name(self.node)
        dtype = next((value.dtype for value in inputs if value is not None), "float32")
        outputs = tuple(Value(f"{base}/{op}.{number}.{place}", shape, dtype) for place, shape in enumerate(shapes))
        label = f"{self.name} {self.node.name or base}"
        node = Node(outputs[0].name, op, tuple(inputs), outputs, attrs or {}, label, True, self.node)
        self.emitted.append(node)
        return outputs[0]
