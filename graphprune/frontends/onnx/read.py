"""Read an ONNX model into a Graph and an Analysis."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...analysis import Analysis
from ...collector import collector_paused
from ...errors import TraceError, WeightsError
from ...graph import Graph, Node, Shape, Value
from ...policy import DEFAULT, Policy
from ...repairs import find_rms_norms
from .calls import Call, Unsupported, fitting
from .names import TRANSLATIONS
from .tracing import STANDARD, Trace, constant_of, dtype_name, first_name, holds_channels

ALIGNMENTS = (8, 4, 2, 1)
"""ONNX Runtime computes convolutions in blocks of channels; for other counts it falls back to slower code."""

_STATISTICS = {
    "BatchNormalization": (3, 4),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
}
"""Inputs that hold statistics or scales: they are sliced along, and are no parameters to count."""


def prepare(model: ir.Model) -> ir.Model:
    """The model, changed in place so that no two layers share a vector: exporters merge equal biases of unrelated ones.

    Numbers are not copied, except those of vectors. Copies of `name` are called `name/1`, `name/2`.
    """
    if model.ir_version < 4:  # every initializer is an input there
        return model
    for value, tensor in stored(model).items():
        uses = list(value.uses())
        vector = tensor.size > 1 and tensor.size == max(tensor.shape)
        cut = all(use.node.op_type in ("Slice", "Split", "Gather") for use in uses)  # parts of one vector
        if len(uses) < 2 or not vector or cut or not holds_channels(value, dtype_name(tensor.dtype)):
            continue
        if value.is_graph_output() or any(use.node.graph is not model.graph for use in uses):
            continue
        for number, use in enumerate(uses[1:], 1):
            name = f"{value.name}/{number}"
            twin = ir.Value(name=name, type=value.type, shape=value.shape, const_value=_copied(tensor))
            twin.meta["copy"] = value.name
            model.graph.register_initializer(twin)
            use.node.replace_input_with(use.idx, twin)
    return model


def _copied(tensor: Any) -> "ir.Tensor[Any]":
    """A tensor of its own name: the one of a ModelProto writes its name into the proto."""
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype)


def stored(model: ir.Model) -> dict[ir.Value, Any]:
    """Every stored tensor of the main graph, by its value: initializers and what Constant nodes hold."""
    found = {value: value.const_value for value in model.graph.initializers.values()}
    for node in model.graph:
        if node.op_type == "Constant" and node.domain in STANDARD:
            found[node.outputs[0]] = constant_of(node)
    return {value: tensor for value, tensor in found.items() if tensor is not None}


class Reader:
    """Builds the Graph of a traced model."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.graph = Graph(alignments=ALIGNMENTS)
        self.values: dict[str, Value] = {}
        self.tensors = {value.name: tensor for value, tensor in stored(trace.model).items()}
        self.statistics = _statistics(trace.model)

    def value(self, name: str) -> Value:
        """The value of a name; a stored tensor becomes a leaf when it is first read."""
        if name not in self.values:
            kind = "computed"
            if name in self.tensors and name not in self.trace.plain:
                kind = "buffer" if name in self.statistics or self.trace.dtypes[name] == "bool" else "parameter"
            shape, dtype = self.trace.shapes.get(name, ()), self.trace.dtypes.get(name, "undefined")
            self.values[name] = Value(name, shape, dtype, kind)
            if kind != "computed":
                self.graph.leaves[name] = self.values[name]
        return self.values[name]

    def add(self, node: ir.Node) -> None:
        """Translate one node, unless it only computes sizes or holds a stored tensor."""
        if node.op_type == "Constant" and node.domain in STANDARD:
            return
        if node.outputs and all(not out.name or out.name in self.trace.plain for out in node.outputs):
            return
        inputs = tuple(None if v is None or not v.name else self.value(v.name) for v in node.inputs)
        shapes = tuple(self.trace.shapes.get(out.name or "", ()) for out in node.outputs)
        call = Call(node, self.trace, inputs, shapes)
        try:
            operation, operands, attrs = self._translate(call)
        except Unsupported as reason:
            call.emitted.clear()
            operands = tuple(v for v in inputs if v is not None) + tuple(map(self.value, captured(node)))
            kind = f"{node.domain}::{node.op_type}" if node.domain not in STANDARD else node.op_type
            operation, attrs = "unknown", {"name": kind, "reason": str(reason), "unlock": reason.unlock}
        self._append(call, operation, operands, attrs)

    def _translate(self, call: Call) -> Any:
        node = call.node
        if captured(node) or any(
            attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in _plain(node)
        ):
            raise Unsupported(f"{call.name} runs a graph of its own", "take channels out of control flow")
        translation = TRANSLATIONS.get(("" if node.domain in STANDARD else node.domain, node.op_type))
        if translation is None:
            where = "" if node.domain in STANDARD else f" of {node.domain}"
            raise Unsupported(f"operator {call.name}{where} has no rule", "add a translation: docs/extending.md")
        for value in (*node.inputs, *(out for place, out in enumerate(node.outputs) if not place or out.uses())):
            if value is not None and value.name and value.name not in self.trace.shapes:
                reason = self.trace.problems.get(value.name, "")
                text = f"sizes of {value.name} are not known before it runs{': ' if reason else ''}{reason}"
                raise Unsupported(text, "give it sizes that do not depend on the data")
        with fitting(node, TraceError):
            return translation(call)

    def _append(self, call: Call, operation: str, operands: tuple[Value | None, ...], attrs: dict[str, Any]) -> None:
        node = call.node
        outputs = tuple(self.value(out.name) if out.name else Value("", (), "undefined") for out in node.outputs)
        for value in (*operands, *(item for own in call.emitted for item in own.inputs)):
            if value is not None:
                value.uses += 1
        label = f"{node.name}: {call.name}" if node.name else f"{call.name} that gives {first_name(node)}"
        self.graph.nodes.extend(call.emitted)
        if not operation:  # what was emitted gives the outputs
            for value, given in zip(outputs, operands, strict=False):
                if given is not None and value.name in self.trace.shapes:
                    self.graph.nodes.append(Node(value.name, "identity", (given,), (value,), {}, label, True, node))
            return
        self.graph.nodes.append(Node(first_name(node), operation, operands, outputs, attrs, label, True, node))


@collector_paused()
def read(trace: Trace) -> Graph:
    """The Graph of a traced model."""
    reader = Reader(trace)
    graph = trace.model.graph
    for value in graph.inputs:
        if value.name and value.name not in graph.initializers:
            reader.values[value.name] = Value(value.name, trace.shapes[value.name], trace.dtypes[value.name], "input")
            reader.graph.inputs.append(reader.values[value.name])
    for node in graph:
        reader.add(node)
    for value in graph.outputs:
        reader.value(value.name or "").uses += 1
        reader.graph.outputs.append(reader.value(value.name or ""))
    # single numbers hold no channels, but a user may name them: to keep what has no channels is no mistake
    single = (name or "" for name in reader.tensors if name not in reader.graph.leaves)
    reader.graph.aliases.update((name, name) for name in single)
    for norm in find_rms_norms(reader.graph):
        norm.node.attrs["repaired"] = (norm.scale.name, norm.offset)
        if norm.eps is not None:
            norm.eps.attrs["grows"] = norm.scale.name
    return reader.graph


def analyse(trace: Trace, inputs: Any, policy: Policy = DEFAULT) -> Analysis:
    """The Analysis of a traced model."""
    start = time.process_time()
    graph = read(trace)
    tensors = {value.name or "": tensor for value, tensor in stored(trace.model).items()}
    scales = _scales(trace.model)
    seconds = time.process_time() - start
    analysis = Analysis.of(graph, lambda name: _numpy(name, tensors, scales), inputs, policy)
    analysis.seconds["trace"] = seconds
    return analysis


def captured(node: ir.Node) -> list[str]:
    """Values of the main graph that the graphs inside of a node read."""
    names: dict[str, None] = {}
    own = node.graph
    bodies = [attr for attr in _plain(node) if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)]
    for attr in bodies:
        for body in [attr.as_graph()] if attr.type == ir.AttributeType.GRAPH else attr.as_graphs():
            for inner in (*body.all_nodes(),):
                names.update((v.name or "", None) for v in inner.inputs if v is not None and v.graph is own)
            names.update((v.name or "", None) for v in body.outputs if v is not None and v.graph is own)
    return [name for name in names if name]


def _plain(node: ir.Node) -> list[ir.Attr]:
    return [attr for attr in node.attributes.values() if isinstance(attr, ir.Attr)]


def _statistics(model: ir.Model) -> set[str]:
    found = set()
    for node in model.graph:
        for place in _STATISTICS.get(node.op_type, ()):
            if place < len(node.inputs) and node.inputs[place] is not None:
                found.add(node.inputs[place].name or "")  # type: ignore[union-attr]
    return found


def _scales(model: ir.Model) -> dict[str, tuple[str, str, int]]:
    """For every quantised weight: its scale, its zero point, and the axis along which they vary."""
    found = {}
    for node in model.graph:
        places = {"DequantizeLinear": (0, 1, 2), "QLinearConv": (3, 4, 5), "QLinearMatMul": (3, 4, 5)}.get(node.op_type)
        if places and len(node.inputs) > places[0] and node.inputs[places[0]] is not None:
            names = [node.inputs[p].name if len(node.inputs) > p and node.inputs[p] is not None else "" for p in places]  # type: ignore[union-attr]
            axis = node.attributes.get("axis")
            default = {"QLinearConv": 0, "QLinearMatMul": -1}.get(node.op_type, 1)
            found[names[0] or ""] = (names[1] or "", names[2] or "", axis.as_int() if axis else default)
    return found


def _numpy(name: str, tensors: Mapping[str, Any], scales: Mapping[str, tuple[str, str, int]]) -> NDArray[Any]:
    """A stored tensor as numbers that scores can be made of; quantised ones in real numbers."""
    numbers = np.asarray(tensors[name].numpy())
    if numbers.dtype.kind in "iubV" or numbers.dtype.itemsize <= 2:
        numbers = numbers.astype(np.float32)
    if name in scales and scales[name][0] in tensors:
        scale_name, zero_name, axis = scales[name]
        zero = tensors[zero_name].numpy() if zero_name in tensors else np.zeros(1)
        return _dequantised(name, numbers, tensors[scale_name].numpy(), zero, axis)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise WeightsError(f"{name} holds numbers that are not finite")
    return numbers


def _dequantised(name: str, numbers: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int) -> NDArray[Any]:
    def spread(item: NDArray[Any]) -> NDArray[Any]:
        item = item.astype(np.float32)
        if item.size == 1:
            return item.reshape(())
        if numbers.ndim == 0 or item.size != numbers.shape[axis % numbers.ndim]:
            raise WeightsError(
                f"{name} of sizes {numbers.shape} has {item.size} scales or zero points along axis {axis}"
            )
        return item.reshape([-1 if place == axis % numbers.ndim else 1 for place in range(numbers.ndim)])

    result: NDArray[Any] = (numbers.astype(np.float32) - spread(zero)) * spread(scale)
    return result


def shapes_of(graph: Graph) -> dict[str, Shape]:
    """Shapes by name; what a plan's fingerprint is made of."""
    return {name: leaf.shape for name, leaf in graph.leaves.items()}
