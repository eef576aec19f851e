"""A model in float64: the same operators where ONNX Runtime has them in float64, their definition where it has not.

Every float tensor becomes float64. An operator without a kernel for that is written as others: by an expansion of ours
(`EXPANSIONS`), or by its function body in the ONNX standard. What is left runs in its own precision between casts,
and is remembered, so that a comparison allows for its rounding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from .bodies import function_body
from .builder import Builder, CannotExpand
from .kernels import Signature, dtype_named, signature
from .tracing import first_name
from .wide import EXPANSIONS

DOUBLE = ir.DataType.DOUBLE
EXACT = "graphprune.exact"
"""The key of a tensor's `meta` under which its numbers lie in float64, where those of its dtype are rounded."""

NARROW = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "precision")
_FLOAT_BY_DEFAULT = {
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "HannWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
}
"""Operators that give float32 unless an attribute says otherwise."""

_SPOKEN = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}

_BIT_PATTERNS = {"BitCast"}
"""Operators that read the bits of their inputs: they keep their precision."""


@dataclass(frozen=True)
class Widened:
    """A model that runs in float64 but for some operators.

    `islands` are (operator, dtype, name of the node) of what kept its own precision. `unknown` names values whose
    shapes would have allowed more; give them to `widened` as `shapes`.
    """

    model: ir.Model
    islands: tuple[tuple[str, str, str], ...] = ()
    unknown: tuple[str, ...] = ()


def widened(
    model: ir.Model,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    observed: Mapping[str, tuple[int, ...]] | None = None,
) -> Widened:
    """A copy of a model that ONNX Runtime runs in float64 as far as it can.

    `shapes` are those of the inputs that it will get, `observed` those of other values where they are known. The model
    given is not touched, and its tensors are converted when they are read.

    ```python
    import onnx, onnx_ir
    from graphprune.frontends.onnx.widen import widened

    text = '<ir_version: 9, opset_import: ["": 17]> net (float[1, 4] x) => (float[1, 4] y) { y = Erf(x) }'
    wide = widened(onnx_ir.from_proto(onnx.parser.parse_model(text)))
    assert not wide.islands and wide.model.graph.inputs[0].dtype == onnx_ir.DataType.DOUBLE
    ```
    """
    prepared = prepare(model, shapes or {}, observed or {})
    work = _Widening(prepared.opset_imports.get("", 1), dict(prepared.opset_imports))
    work.graph(prepared.graph)
    prepared.opset_imports.setdefault("", work.opset)
    return Widened(prepared, tuple(work.islands), tuple(dict.fromkeys(work.unknown)))


RECURRENT = ("LSTM", "GRU", "RNN")


def prepare(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]], observed: Mapping[str, tuple[int, ...]]
) -> ir.Model:
    """A copy without functions and overridable tensors, whose values know their shapes where they can be inferred."""
    copy = model.clone()
    copy = passes.InlinePass()(copy).model
    _detach_constants(copy)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    passes.RemoveInitializersFromInputsPass()(copy)
    for value in copy.graph.inputs:
        if str(value.name) in shapes:
            value.shape = ir.Shape(shapes[str(value.name)])
    for node in copy.graph:  # what was inferred for other sizes is stale
        for value in node.outputs:
            value.shape = None
    for value in copy.graph.outputs:
        value.shape = None
    for node in copy.graph.all_nodes():
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    for node in copy.graph.all_nodes():
        _mark_sequences(node, signature(node.domain, node.op_type, copy.opset_imports.get(node.domain, 1)))
    for node in copy.graph:
        for value in node.outputs:
            if str(value.name) in observed:
                value.shape = ir.Shape(observed[str(value.name)])
    return copy


def _detach_constants(model: ir.Model) -> None:
    """Let no Constant hold a tensor of the user's protobuf: lifting writes a name into it."""
    for node in model.graph.all_nodes():
        held = node.attributes.get("value") if node.op_type == "Constant" else None
        if held is not None and isinstance(held.value, ir.serde.TensorProtoTensor):
            own = ir.LazyTensor(held.as_tensor, dtype=held.value.dtype, shape=held.value.shape, name=held.value.name)
            node.attributes["value"] = ir.AttrTensor("value", own)


def _mark_sequences(node: ir.Node, known: Signature | None) -> None:
    """Shape inference writes down what is in a sequence as if it were a tensor."""
    for position, value in enumerate(node.outputs):
        kind = known.kind(known.formal(known.outputs, position)[1]) if known else "tensor"
        if isinstance(value.type, ir.TensorType) and kind != "tensor":
            value.type = ir.SequenceType(value.type) if kind == "seq" else None


@dataclass
class _Widening:
    """The walk over a model: `opset` of the standard operators, `imports` of all domains."""

    opset: int
    imports: dict[str, int]
    islands: list[tuple[str, str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    narrow: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    exact: set[ir.Value] = field(default_factory=set)

    def graph(self, graph: ir.Graph) -> None:
        """Widen a graph in place, and the graphs inside its nodes."""
        for value in (*graph.inputs, *graph.initializers.values()):
            self._widen_value(value)
        for value in graph.initializers.values():
            self.exact.add(value)
            if value.const_value is not None and value.const_value.dtype in NARROW:
                value.const_value = _wide_tensor(value.const_value)
        for node in list(graph):
            if node.op_type in RECURRENT:  # what is spelled out gives all that they could give
                for place, value in enumerate(node.outputs):
                    value.name = value.name or f"{first_name(node)}/unread.{place}"
            nodes = self.lower(node)
            if nodes == [node]:
                continue
            fresh = [one for one in nodes if one is not node]
            if node in nodes:
                where = nodes.index(node)
                graph.insert_before(node, nodes[:where])
                graph.insert_after(node, nodes[where + 1 :])
            else:
                graph.insert_before(node, fresh)
                graph.remove(node)

    def lower(self, node: ir.Node) -> list[ir.Node]:
        """The nodes that compute in float64 what a node computes."""
        for attribute in node.attributes.values():
            if isinstance(attribute, ir.Attr) and attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                for body in (
                    attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else [attribute.as_graph()]
                ):
                    self.graph(body)
        if any(_has_graph(attribute) for attribute in node.attributes.values()):
            for value in node.outputs:
                self._widen_value(value)
            return [node]
        if node.op_type == "Constant":
            _widen_attributes(node)
            self.exact.update(node.outputs)
            node.outputs[0].type = ir.TensorType(_declared(node) or node.outputs[0].dtype or DOUBLE)
            return [node]
        known = signature(node.domain, node.op_type, self.imports.get(node.domain, 1))
        if known is None:
            return self._cast(node, None, {}, "unknown to ONNX Runtime")
        if node.op_type in _BIT_PATTERNS:
            return self._cast(node, known, {name: self._original(node, known, name) for _, name in known.inputs})
        bound = self._bound(node, known)
        if DOUBLE not in bound.values() and not self._touches_floats(node, known):
            self._type_outputs(node, known, bound)
            return [node]
        _widen_attributes(node)
        if self._fits(node, known, bound):
            return (_is_finer(node) and self._expanded(node, known)) or self._cast(node, known, bound)
        return self._expanded(node, known) or self._cast(node, known, self._narrowed(node, known, bound), "")

    def _expanded(self, node: ir.Node, known: Signature) -> list[ir.Node]:
        """What an expansion makes of a node; empty where there is none."""
        for expansion in (EXPANSIONS.get((node.domain, node.op_type)), function_body):
            if expansion is None:
                continue
            builder = Builder(node, self.opset)
            try:
                made = expansion(builder)
            except CannotExpand:
                self.unknown.extend(value.name for value in builder.unknown if value.name)
                builder.discard()
                continue
            results = list(made) if isinstance(made, (list, tuple)) else [made]
            for old, new in zip(node.outputs, results, strict=False):
                self._widen_value(old)
                if new is not None:
                    new.name, new.type, new.shape = old.name, old.type, old.shape
                    ir.convenience.replace_all_uses_with([old], [new], replace_graph_outputs=True)
            for position in range(len(node.inputs)):
                node.replace_input_with(position, None)
            return [final for one in builder.nodes for final in self.lower(one)]
        return []

    def _bound(self, node: ir.Node, known: Signature) -> dict[str, ir.DataType]:
        """The dtypes of the type variables of a node."""
        bound = {}
        for position, value in enumerate(node.inputs):
            _, name = known.formal(known.inputs, position)
            dtype = _tensor_dtype(value)
            if dtype is not None and dtype_named(name) is None:
                bound[name] = dtype
        for position, value in enumerate(node.outputs):
            _, name = known.formal(known.outputs, position)
            if dtype_named(name) is None and name not in bound:
                dtype = _declared(node) or _tensor_dtype(value)
                if dtype is not None:
                    bound[name] = DOUBLE if dtype in NARROW else dtype
        return bound

    def _touches_floats(self, node: ir.Node, known: Signature) -> bool:
        concrete = [known.formal(known.outputs, position)[1] for position in range(len(node.outputs))]
        return any(dtype_named(name) in NARROW for name in concrete) or any(
            _tensor_dtype(value) == DOUBLE for value in node.inputs
        )

    def _fits(self, node: ir.Node, known: Signature, bound: Mapping[str, ir.DataType]) -> bool:
        """Whether a kernel computes in float64: variables that outputs alone have may be anything."""
        read = {known.formal(known.inputs, position)[1] for position in range(len(node.inputs))}
        main = known.outputs[0][1] if known.outputs else ""
        asked = {name: dtype for name, dtype in bound.items() if name in read or name == main}
        single = any(
            dtype_named(known.formal(known.inputs, position)[1]) in NARROW and value not in self.exact
            for position, value in enumerate(node.inputs)
            if value is not None
        )
        return known.runs(asked) and not single and dtype_named(main) not in NARROW

    def _narrowed(self, node: ir.Node, known: Signature, bound: Mapping[str, ir.DataType]) -> dict[str, ir.DataType]:
        """The type variables with as few as possible in float32, or in their own precision where that has no kernel."""
        wide = [name for name, dtype in bound.items() if dtype == DOUBLE]
        for some in (*([name] for name in wide), wide):
            narrowed = {**bound, **dict.fromkeys(some, ir.DataType.FLOAT)}
            if known.runs(narrowed):
                return narrowed
        return {**bound, **{name: self._original(node, known, name) for name in wide}}

    def _original(self, node: ir.Node, known: Signature, variable: str) -> ir.DataType:
        for position, value in enumerate(node.inputs):
            if value is not None and known.formal(known.inputs, position)[1] == variable:
                return self.narrow.get(value, value.dtype or ir.DataType.FLOAT)
        return ir.DataType.FLOAT

    def _cast(
        self, node: ir.Node, known: Signature | None, bound: Mapping[str, ir.DataType], why: str | None = None
    ) -> list[ir.Node]:
        """A node between casts: from float64 to what it takes, and back. `why` is None where nothing is lost."""
        before, after = Builder(node, self.opset), Builder(node, self.opset)
        lost = ir.DataType.DOUBLE
        for position, value in enumerate(node.inputs):
            if value is None or _tensor_dtype(value) != DOUBLE:
                continue
            name = known.formal(known.inputs, position)[1] if known else ""
            wanted = dtype_named(name) or bound.get(name) or (DOUBLE if known else self.narrow.get(value, DOUBLE))
            if wanted != DOUBLE:
                narrow = before.cast(value, wanted)
                narrow.type = ir.TensorType(wanted)
                node.replace_input_with(position, narrow)
                lost = lost if value in self.exact else min(lost, wanted, key=lambda dtype: dtype.bitwidth)
        for position, value in enumerate(node.outputs):
            name = known.formal(known.outputs, position)[1] if known else ""
            given = dtype_named(name) or bound.get(name) or _tensor_dtype(value)
            if not isinstance(value.type, (ir.TensorType, type(None))):
                self._widen_value(value)
            elif given in NARROW and value.dtype in (*NARROW, DOUBLE, None):
                wide = after.cast(value, DOUBLE)
                wide.name, value.name = value.name, after.fresh_name()
                wide.type, wide.shape = ir.TensorType(DOUBLE), value.shape
                uses = [use for use in value.uses() if use.node is not after.nodes[-1]]
                for use in uses:
                    use.node.replace_input_with(use.idx, wide)
                _replace_output(node, value, wide)
                value.type = ir.TensorType(given)
                lost = given
            elif given is not None:
                value.type = value.type or ir.TensorType(given)
                self._widen_value(value) if given == DOUBLE else None
        if why is not None or lost in NARROW:
            self.islands.append((_label(node), _SPOKEN.get(lost, lost.name.lower()), node.name or ""))
        return [*before.nodes, node, *after.nodes]

    def _type_outputs(self, node: ir.Node, known: Signature, bound: Mapping[str, ir.DataType]) -> None:
        for position, value in enumerate(node.outputs):
            _, name = known.formal(known.outputs, position)
            dtype = dtype_named(name) or bound.get(name)
            if value.type is None and dtype is not None:
                value.type = ir.TensorType(dtype)

    def _widen_value(self, value: ir.Value) -> None:
        if value.dtype in NARROW:
            self.narrow[value] = value.dtype
        if value.type is not None:
            value.type = _wide_type(value.type)


def _tensor_dtype(value: ir.Value | None) -> ir.DataType | None:
    """The dtype of a tensor; None for sequences, and where it is not known."""
    plain = value is not None and isinstance(value.type, ir.TensorType)
    return value.dtype if plain and value is not None else None


def _wide_type(kind: Any) -> Any:
    if isinstance(kind, ir.TensorType):
        return ir.TensorType(DOUBLE) if kind.dtype in NARROW else kind
    if isinstance(kind, (ir.SequenceType, ir.OptionalType)):
        return type(kind)(_wide_type(kind.elem_type))
    return kind


def _wide_tensor(tensor: Any) -> ir.LazyTensor:
    """A tensor that is converted when it is read."""

    def convert() -> ir.TensorProtocol:
        exact = tensor.meta.get(EXACT) if hasattr(tensor, "meta") else None
        return ir.Tensor(np.asarray(tensor.numpy() if exact is None else exact, dtype=np.float64), name=tensor.name)

    return ir.LazyTensor(convert, DOUBLE, tensor.shape, name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    for name in _DTYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT and attribute.value in map(int, NARROW):
            node.attributes[name] = ir.AttrInt64(name, int(DOUBLE))
    default = _FLOAT_BY_DEFAULT.get(node.op_type)
    if default and node.domain == "" and default not in node.attributes:
        node.attributes[default] = ir.AttrInt64(default, int(DOUBLE))
    for name in ("value_float", "value_floats"):
        if node.op_type == "Constant" and name in node.attributes:
            numbers = np.float32(node.attributes.pop(name).value)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(numbers.astype(np.float64)))
    stored = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and stored is None:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1)))
    elif stored is not None and stored.type == ir.AttributeType.TENSOR and stored.value.dtype in NARROW:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.asarray(stored.value.numpy(), np.float64)))


def _declared(node: ir.Node) -> ir.DataType | None:
    """The dtype of what a node gives where its attributes say it."""
    for name in ("to", "dtype", "output_dtype", "output_datatype"):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT and attribute.value:
            return ir.DataType(attribute.value)
    stored = node.attributes.get("value")
    if stored is not None and stored.type == ir.AttributeType.TENSOR:
        return ir.DataType(stored.value.dtype)
    if node.op_type in ("ConstantOfShape", *_FLOAT_BY_DEFAULT) or {"value_float", "value_floats"} & set(
        node.attributes
    ):
        return ir.DataType.FLOAT
    return ir.DataType.INT64 if {"value_int", "value_ints"} & set(node.attributes) else None


def _is_finer(node: ir.Node) -> bool:
    """Whether a node has a number of more digits than float32, which attributes lose when they are written down."""
    numbers = [item.value for item in node.attributes.values() if item.type == ir.AttributeType.FLOAT]
    return any(float(np.float32(number)) != number for number in numbers)


def _has_graph(attribute: Any) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _label(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _replace_output(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Let a graph give another value in place of one."""
    graph = node.graph
    if isinstance(graph, ir.Graph):
        for position, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[position] = new


def island_names(islands: Iterable[tuple[str, str, str]]) -> list[str]:
    """The operators of islands, each once."""
    return sorted({op for op, _, _ in islands})
