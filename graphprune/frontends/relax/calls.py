"""One call of a Relax operator as translations see it: tensors as values of our graph, the rest as plain numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, tirx

from ...graph import Node, Shape, Value
from ...translation import Translated as Translated
from ...translation import Unsupported as Unsupported
from ...translation import axis_of as axis_of

Operand = Any
"""A value, a list of operands (a tuple), or an expression that is no tensor."""


@dataclass
class Call:
    """A call.

    `name` is that of the operator without `relax.`; `step` that of the binding; `results` are the values it gives.
    `numbers` are those of operands that are known and hold no channels; `weights` gives those of stored tensors by
    name. A translation that needs several canonical operations adds all but the last with `emit`; `emitted` collects
    them.
    """

    name: str
    step: str
    attrs: Any
    args: tuple[Operand, ...]
    results: tuple[Value, ...]
    numbers: Mapping[Value, NDArray[Any]]
    weights: Callable[[str], NDArray[Any]]
    emitted: list[Node] = field(default_factory=list)

    @property
    def x(self) -> Value:
        """The first argument."""
        return self.tensor(0)

    @property
    def shape(self) -> Shape:
        """The shape of the first result."""
        return self.results[0].shape

    def get(self, position: int) -> Value | None:
        """A tensor, or None where the argument is left out."""
        value = self.args[position] if position < len(self.args) else None
        return value if isinstance(value, Value) else None

    def tensor(self, position: int) -> Value:
        """A tensor that has to be there."""
        value = self.get(position)
        if value is None:
            raise Unsupported(f"{self.name} without a tensor as argument {position}")
        return value

    def tensors(self, position: int) -> tuple[Value, ...]:
        """The tensors of an argument that is a tuple."""
        items = self.args[position]
        if not isinstance(items, list) or not all(isinstance(item, Value) for item in items):
            raise Unsupported(f"{self.name} of something else than a tuple of tensors")
        return tuple(items)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as plain Python: number, text, list of numbers."""
        found = plain(getattr(self.attrs, name, None)) if self.attrs is not None else None
        return default if found is None else found

    def axis(self, name: str = "axis", default: int | None = None) -> int | None:
        """An attribute that is an axis, counted from the front; None for all axes."""
        axis = self.attr(name, default)
        return None if axis is None else axis_of(self.x.shape, int(axis))

    def axes(self, name: str = "axis") -> list[int]:
        """Axes in order, counted from the front; all of them where there is none."""
        axes, shape = self.attr(name), self.x.shape
        axes = range(len(shape)) if axes is None else [axes] if isinstance(axes, int) else axes
        return sorted({axis_of(shape, int(axis)) for axis in axes})

    def whole(self, position: int) -> list[int]:
        """Whole numbers given as an argument: a tuple, a shape, or one number."""
        found = plain(self.args[position]) if position < len(self.args) else None
        found = [found] if isinstance(found, int) else found
        if not isinstance(found, list) or not all(isinstance(item, int) for item in found):
            raise Unsupported(f"{self.name} by sizes that are not known", "make them constants")
        return found

    def number(self, position: int) -> float | int | None:
        """The one number of an argument that holds nothing else."""
        given = self.args[position] if position < len(self.args) else None
        if isinstance(given, Value):
            found = self.numbers.get(given)
            return None if found is None or found.size != 1 else found.reshape(()).item()
        found = plain(given)
        return found if isinstance(found, (int, float)) else None

    def stored(self, value: Value) -> NDArray[Any] | None:
        """The numbers of a constant."""
        return self.weights(value.name) if value.is_leaf else self.numbers.get(value)

    def emit(self, op: str, inputs: Sequence[Value | None], attrs: dict[str, Any], shape: Shape) -> Value:
        """Add an operation before the last one; returns what it gives."""
        dtype = next((value.dtype for value in inputs if value is not None), "float32")
        name = f"{self.step}/{op}.{len(self.emitted)}"
        output = Value(name, shape, dtype)
        self.emitted.append(Node(name, op, tuple(inputs), (output,), attrs, self.label, True, self.step))
        return output

    @property
    def label(self) -> str:
        """What messages call the node."""
        return f"{self.step}: {self.name}"

    def permuted(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its axes in another order; itself where that is the same."""
        if list(order) == list(range(len(value.shape))):
            return value
        return self.emit("permute", (value,), {"order": list(order)}, tuple(value.shape[axis] for axis in order))

    def returned(
        self, op: str, inputs: Sequence[Value | None], attrs: dict[str, Any], order: Sequence[int]
    ) -> Translated:
        """An operation whose result has its axes in another order: `order[i]` is what becomes axis i."""
        if list(order) == list(range(len(self.shape))):
            return op, tuple(inputs), attrs
        inner = [0] * len(order)
        for axis, source in enumerate(order):
            inner[source] = self.shape[axis]
        return "permute", (self.emit(op, inputs, attrs, tuple(inner)),), {"order": list(order)}


def plain(item: Any) -> Any:
    """Numbers, text and lists of them for what TVM wraps; anything else as it is."""
    if isinstance(item, relax.ShapeExpr):
        return [plain(part) for part in item.values]
    if isinstance(item, relax.Tuple):
        return [plain(part) for part in item.fields]
    if isinstance(item, tirx.IntImm):
        return int(item.value)
    if isinstance(item, tirx.FloatImm):
        return float(item.value)
    if isinstance(item, ir.GenericConst) and isinstance(item.ty, relax.TensorType) and not item.value.shape:
        return np.asarray(item.value.numpy()).item()
    if isinstance(item, (str, int, float)) or item is None:
        return item
    try:
        return [plain(part) for part in item]
    except TypeError:
        return item
