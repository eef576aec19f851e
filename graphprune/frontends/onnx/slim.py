"""Write a plan into an ONNX model: slice stored tensors, then walk the program and bring sizes in line.

Sizes live in attributes (groups, heads), in stored vectors (targets of Reshape, bounds of Slice) and in chains that
compute them from Shape. The walk knows what every operand holds now and what it has to hold; it changes as few entries
as possible, so that what follows the input (batch, image, length) still does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...analysis import Analysis
from ...errors import ApplyError
from ...graph import Node, Shape
from ...plan import Plan
from ...shapes import Alive, attributes_of, grown_eps, living, shape_of
from .calls import fitting
from .slicing import slice_stored
from .tracing import STANDARD, Trace, set_constant

_PASSING = {"Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape"}
_END = 2**62


@dataclass
class Edit:
    """One node of the slim model while it is brought in line.

    `before` are its canonical operations in the analysis, `predicted` their new attributes, `want` the shapes that the
    labels predict by value name, `trace` what is known of the slim model so far, `old` what was known before.
    """

    node: ir.Node
    before: list[Node]
    predicted: dict[str, Any]
    want: dict[str, Shape]
    trace: Trace
    old: Trace

    def numbers(self, position: int) -> NDArray[Any] | None:
        """What an operand holds now."""
        value = self.node.inputs[position] if position < len(self.node.inputs) else None
        return None if value is None else self.trace.numbers.get(value.name or "")

    def shape(self, position: int = 0) -> Shape:
        """The size of an operand now."""
        value = self.node.inputs[position]
        return self.trace.shapes[value.name or ""] if value is not None else ()

    def wanted(self, output: int = 0) -> Shape:
        """The size that an output has to have."""
        name = self.node.outputs[output].name or ""
        return self.want.get(name, self.old.shapes.get(name, ()))

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        attr = self.node.attributes.get(name)
        return default if attr is None else attr.value

    def set_attr(self, name: str, number: int | float | list[int]) -> None:
        """Write an attribute, unless it has this value."""
        if self.attr(name) == number or isinstance(number, list) and list(self.attr(name, ())) == number:
            return
        self.node.attributes.update(ir.node("", [], {name: number}).attributes)

    def set_operand(self, position: int, wanted: Any) -> None:
        """Let an operand hold these numbers, changing no more entries of it than needed."""
        value = self.node.inputs[position]
        assert value is not None
        now = self.trace.numbers[value.name or ""]
        wanted = np.asarray(wanted, dtype=now.dtype).reshape(now.shape)
        if np.array_equal(now, wanted):
            return
        if is_stored(value) and len(list(value.uses())) == 1 and not value.is_graph_output():
            set_constant(value, ir.Tensor(wanted, name=value.name))
            self.trace.numbers[value.name or ""] = wanted
            return
        self.node.replace_input_with(position, self._rebuilt(value, wanted))
        _remove_unused(value)

    def replace_operand(self, position: int, wanted: NDArray[Any]) -> None:
        """Let an operand be a constant."""
        value = self.node.inputs[position]
        assert value is not None
        self.node.replace_input_with(position, self._constant(value.name or "", wanted))
        _remove_unused(value)

    def restore_operand(self, position: int) -> None:
        """Let an operand hold what it held before: the sizes that it is computed of become constants."""
        value = self.node.inputs[position]
        assert value is not None
        self.node.replace_input_with(position, self._restored(value))
        _remove_unused(value)

    def _restored(self, value: ir.Value) -> ir.Value:
        was, now = self.old.numbers.get(value.name or ""), self.trace.numbers.get(value.name or "")
        if was is None or now is None or was.shape == now.shape and np.array_equal(was, now):
            return value
        producer = value.producer()
        real = was.dtype.kind == "f" and producer is not None and producer.domain in STANDARD
        if not real or producer is None or len(producer.outputs) > 1 or is_stored(value):
            return self._constant(value.name or "", was)
        return self._again(producer, [None if part is None else self._restored(part) for part in producer.inputs])

    def _rebuilt(self, value: ir.Value, wanted: NDArray[Any]) -> ir.Value:
        now = self.trace.numbers[value.name or ""]
        if np.array_equal(now, wanted):
            return value
        producer = value.producer()
        if is_stored(value) or producer is None:
            return self._constant(value.name or "", wanted)
        if producer.op_type == "Concat" and producer.domain in STANDARD:
            sizes = [self.trace.numbers[part.name or ""].size for part in producer.inputs if part is not None]
            pieces = np.split(wanted, np.cumsum(sizes)[:-1])
            parts = [part for part in producer.inputs if part is not None]
            return self._again(producer, [self._rebuilt(p, w) for p, w in zip(parts, pieces, strict=True)])
        if producer.op_type in _PASSING and producer.domain in STANDARD and producer.inputs[0] is not None:
            inner = self.trace.numbers.get(producer.inputs[0].name or "")
            if inner is not None and inner.size == wanted.size:
                first = self._rebuilt(producer.inputs[0], wanted.reshape(inner.shape).astype(inner.dtype))
                return self._again(producer, [first, *producer.inputs[1:]])
        return self._scaled(value, now, wanted)

    def _scaled(self, value: ir.Value, now: NDArray[Any], wanted: NDArray[Any]) -> ir.Value:
        """The value times a ratio: it follows what it followed before."""
        if (now == 0).any():
            return self._constant(value.name or "", wanted)
        common = np.vectorize(gcd)(now.astype(np.int64), wanted.astype(np.int64))
        parts = [("Mul", wanted // common), ("Div", now // common)]
        for op, factor in parts:
            name = value.name or ""
            other = self._constant(name, factor.astype(now.dtype))
            value = self._insert(ir.node(op, [value, other]), f"{name}/{op.lower()}")
        return value

    def _again(self, producer: ir.Node, inputs: list[Any]) -> ir.Value:
        """A copy of a node with other inputs."""
        copy = ir.node(producer.op_type, inputs, dict(producer.attributes), domain=producer.domain)
        return self._insert(copy, producer.outputs[0].name or "")

    def _insert(self, node: ir.Node, name: str) -> ir.Value:
        graph = self.node.graph
        assert isinstance(graph, ir.Graph)
        node.name = node.outputs[0].name = _unused(self.trace, f"{name}/slim")
        graph.insert_before(self.node, node)
        self.trace.step(node)
        return node.outputs[0]

    def _constant(self, name: str, numbers: NDArray[Any]) -> ir.Value:
        tensor = ir.Tensor(np.array(numbers, order="C"))
        node = ir.node("Constant", [], {"value": tensor})
        return self._insert(node, name)


def is_stored(value: ir.Value) -> bool:
    """Whether a value is an initializer or what a Constant node holds."""
    producer = value.producer()
    return value.is_initializer() or producer is not None and producer.op_type == "Constant"


def _unused(trace: Trace, name: str) -> str:
    number = 0
    while (label := f"{name}.{number}" if number else name) in trace.dtypes:
        number += 1
    return label


def _remove_unused(value: ir.Value) -> None:
    """Remove what only a replaced operand was made by."""
    if list(value.uses()) or value.is_graph_output() or value.is_graph_input():
        return
    producer = value.producer()
    if producer is None:
        if value.graph is not None and value.is_initializer():
            del value.graph.initializers[value.name or ""]
        return
    if any(list(out.uses()) or out.is_graph_output() for out in producer.outputs) or producer.graph is None:
        return
    inputs = [item for item in producer.inputs if item is not None]
    assert isinstance(producer.graph, ir.Graph)
    producer.graph.remove(producer, safe=True)
    for item in inputs:
        _remove_unused(item)


# ---- what a kind of node needs ----------------------------------------------------------------------------


def _reshape(edit: Edit) -> None:
    now, want = edit.numbers(1), edit.wanted()
    if now is None or now.size != len(want):
        return
    zero = not edit.attr("allowzero", 0)
    before = edit.shape()
    kept = [
        t == -1 or (t == 0 and zero and axis < len(before) and before[axis] == want[axis]) for axis, t in enumerate(now)
    ]
    edit.set_operand(1, [t if keep else w for t, w, keep in zip(now.tolist(), want, kept, strict=True)])


def _expand(edit: Edit) -> None:
    now, want = edit.numbers(1), edit.wanted()
    if now is not None:
        tail = want[len(want) - now.size :]
        edit.set_operand(1, [t if t == 1 else w for t, w in zip(now.tolist(), tail, strict=True)])


def _made(edit: Edit) -> None:
    if edit.numbers(0) is not None:
        edit.set_operand(0, edit.wanted())


def _resize(edit: Edit) -> None:
    """The number of channels, where sizes are given."""
    now = edit.numbers(3)
    if now is not None and now.size and edit.attr("axes") is None:
        edit.set_operand(3, [*edit.wanted()[:2], *now[2:].tolist()])


def _slice(edit: Edit) -> None:
    """Bounds per axis, as attributes before opset 10."""
    cuts = {axis: (start, stop) for axis, start, stop, _ in edit.predicted.get("cuts", ())}
    if edit.before and edit.before[-1].op != "getitem":
        return
    given = edit.attr("starts") is not None
    starts, ends = (edit.attr("starts"), edit.attr("ends")) if given else (edit.numbers(1), edit.numbers(2))
    if starts is None or ends is None:
        return
    axes = edit.attr("axes") if given else edit.numbers(3) if len(edit.node.inputs) > 3 else None
    axes = range(len(starts)) if axes is None else axes
    steps = edit.numbers(4) if not given and len(edit.node.inputs) > 4 else None
    starts, ends, shape = [int(i) for i in starts], [int(i) for i in ends], edit.shape()
    for place, axis in enumerate(axes):
        size = shape[int(axis)]
        step = int(steps[place]) if steps is not None else 1
        now = slice(starts[place], ends[place], step).indices(size)
        if int(axis) % len(shape) not in cuts:
            continue
        wanted = cuts[int(axis) % len(shape)]
        if range(*now) != range(*wanted, step) if step > 0 else False:
            starts[place], ends[place] = wanted
    for place, (name, bounds) in enumerate((("starts", starts), ("ends", ends)), 1):
        if given:
            edit.set_attr(name, bounds)
        else:
            edit.set_operand(place, bounds)


def _split(edit: Edit) -> None:
    """Sizes of the parts; parts that are no longer even get them written out."""
    axis = edit.attr("axis", 0)
    sizes = [edit.wanted(place)[axis] for place in range(len(edit.node.outputs))]
    version = edit.trace.model.opset_imports.get("", 1)
    if edit.attr("split") is not None:
        edit.set_attr("split", sizes)
    elif edit.numbers(1) is not None:
        edit.set_operand(1, sizes)
    elif sizes != _even(sum(sizes), len(sizes), edit.attr("num_outputs") is not None):
        if version < 13:
            edit.set_attr("split", sizes)
            return
        edit.node.attributes.pop("num_outputs", None)
        edit.node.resize_inputs(2)
        edit.node.replace_input_with(1, edit._constant("split", np.array(sizes, dtype=np.int64)))


def _even(total: int, count: int, ragged: bool) -> list[int]:
    step = -(-total // count) if ragged else total // max(count, 1)
    sizes = [step] * (count - 1)
    return [*sizes, total - sum(sizes)]


def _gather(edit: Edit) -> None:
    positions, last = edit.predicted.get("positions"), edit.before[-1] if edit.before else None
    if positions is not None and edit.numbers(1) is not None:
        if edit.numbers(1).size != positions.size:  # type: ignore[union-attr]
            edit.replace_operand(1, positions.astype(edit.numbers(1).dtype))  # type: ignore[union-attr]
        else:
            edit.set_operand(1, positions)
    elif last is not None and last.op == "getitem" and edit.numbers(1) is not None and last.attrs["picks"]:
        axis, position = last.attrs["picks"][0]
        size = last.inputs[0].shape[axis]  # type: ignore[union-attr]
        if edit.shape()[axis] != size:
            edit.set_operand(1, edit.predicted["picked"])


def _groups(name: str) -> Callable[[Edit], None]:
    def write(edit: Edit) -> None:
        if "groups" in edit.predicted and edit.predicted["groups"] != edit.attr(name, 1):
            edit.set_attr(name, int(edit.predicted["groups"]))

    return write


def _hidden(edit: Edit) -> None:
    edit.set_attr("hidden_size", int(edit.shape(2)[2]))


def _heads(edit: Edit) -> None:
    """Counts of heads, and what follows from their width, as the labels predict them."""
    split = [node.outputs[0].name for node in edit.before if node.attrs.get("heads")]
    sizes = [edit.want[name][2] for name in split]
    if not sizes:
        return
    names = [name for name in ("num_heads", "q_num_heads") if edit.attr(name)]
    shared = "kv_num_heads"
    for name in names:
        edit.set_attr(name, sizes[0])
    if edit.attr(shared):
        edit.set_attr(shared, sizes[1])
    if edit.attr("qkv_hidden_sizes"):
        edit.set_attr("qkv_hidden_sizes", [int(np.prod(edit.want[name][2:])) for name in split])
    attention = next((node for node in edit.before if node.op == "attention"), None)
    if attention is not None and not edit.attr("scale"):
        was, now = attention.inputs[0], edit.want[attention.inputs[0].name if attention.inputs[0] else ""]
        if was is not None and was.shape[-1] != now[-1]:  # the default depends on the width
            edit.set_attr("scale", float(attention.attrs["scale"]))


FIXES: dict[str, Callable[[Edit], None]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _made,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Conv": _groups("group"),
    "ConvTranspose": _groups("group"),
    "QLinearConv": _groups("group"),
    "ConvInteger": _groups("group"),
    "GroupNormalization": _groups("num_groups"),
    "LSTM": _hidden,
    "GRU": _hidden,
    "RNN": _hidden,
    "FusedConv": _groups("group"),
    **dict.fromkeys("Attention MultiHeadAttention GroupQueryAttention RotaryEmbedding".split(), _heads),
}
"""Operator -> what a plan changes of it. Operators whose sizes follow from their inputs have no line."""

_SIZES = {"Reshape": {1}, "Expand": {1}, "ConstantOfShape": {0}, "Resize": {1, 2, 3}, "Slice": {1, 2, 3, 4},
          "Split": {1}, "Gather": {1}, "Tile": {1}, "Pad": {1, 3}, "Squeeze": {1}, "Unsqueeze": {1}}  # fmt: skip
"""Operands that are sizes and positions; any other one is a number to compute with, which pruning must not change."""


def slim_model(model: ir.Model, plan: Plan, analysis: Analysis, old: Trace) -> tuple[ir.Model, Trace]:
    """A prepared model, changed in place into a slim one, and what is known of it then."""
    alive = living(analysis, plan)
    slice_stored(model, plan)
    want = {value.name: shape_of(value, analysis.layouts[value], alive) for value in analysis.layouts}
    calls: dict[int, list[Node]] = {}
    for canonical in analysis.graph.nodes:
        calls.setdefault(id(canonical.call), []).append(canonical)
    trace = Trace.start(model, {value.name: value.shape for value in analysis.graph.inputs})
    for node in list(model.graph):
        before = calls.get(id(node), [])
        with fitting(node, ApplyError):
            _bring_in_line(Edit(node, before, _predicted(before, analysis, plan, alive), want, trace, old), plan)
        trace.step(node)
    _write_shapes(model, trace, old)
    return model, trace


def _predicted(before: list[Node], analysis: Analysis, plan: Plan, alive: Alive) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in before:
        found |= attributes_of(node, analysis, plan, alive)
    return found


def _bring_in_line(edit: Edit, plan: Plan) -> None:
    node = edit.node
    fix = FIXES.get(node.op_type)
    known = all(value is None or value.name in edit.trace.shapes for value in node.inputs)
    if fix is not None and known and edit.before:
        fix(edit)
    if not edit.before or edit.before[-1].op == "unknown":
        return
    sizes = _SIZES.get(node.op_type, set())
    for place, value in enumerate(node.inputs):
        if value is None or place in sizes:
            continue
        was, now = edit.old.numbers.get(value.name or ""), edit.trace.numbers.get(value.name or "")
        plain = value.name in edit.old.plain
        if plain and was is not None and now is not None and was.shape == now.shape and not np.array_equal(was, now):
            edit.restore_operand(place)
    for canonical in edit.before:
        grown = grown_eps(canonical, plan)
        if grown is not None:
            _write_eps(edit, canonical, grown)


def _write_eps(edit: Edit, canonical: Node, grown: float) -> None:
    if canonical.op == "rms_norm":
        edit.set_attr("epsilon", float(grown))
        return
    for place, value in enumerate(edit.node.inputs):
        numbers = edit.trace.numbers.get(value.name or "") if value is not None else None
        if numbers is not None and numbers.size == 1:
            edit.set_operand(place, np.full(numbers.shape, grown))


def _write_shapes(slim: ir.Model, trace: Trace, old: Trace) -> None:
    """Bring the written sizes of values in line; those that follow the inputs keep their names."""
    for value in (*slim.graph.inputs, *(out for node in slim.graph for out in node.outputs)):
        known = trace.shapes.get(value.name or "")
        if value.shape is None or known is None or len(known) != len(value.shape):
            continue
        before = old.shapes.get(value.name or "", known)
        # a named size that shrinks, such as batch times heads, no longer is that of others of its name
        named = [dim if was == now else None for dim, was, now in zip(value.shape, before, known, strict=True)]
        value.shape = ir.Shape(
            [now if isinstance(dim, int) else name for dim, name, now in zip(value.shape, named, known, strict=True)]
        )
