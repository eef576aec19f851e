"""Sizes of everything in an ONNX model for given sizes of its inputs: dtypes, shapes, and the numbers of shape chains.

Nothing large is computed: standard shape inference runs node by node, and nodes whose inputs are few known numbers are
evaluated, so that sizes which the program computes (Shape, Gather, Concat, Reshape) are known like written ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference.ops import load_op

from ...graph import Shape
from .fused import FUSED_SHAPES, RESULT_TYPE
from .tensors import possible

SMALL = 4096
"""Tensors of at most this many elements may be sizes, positions or other numbers that a program computes with."""

_SPREADING = {"ConstantOfShape", "Expand", "Tile"}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_SIZES = {"Shape", "Size"}
_QUANTISED = {
    "DequantizeLinear",
    "QuantizeLinear",
    "QL",
    "MatMulInteger",
    "ConvInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}


Known = tuple[str, Shape | None, bytes | None]
"""Element type, size and numbers of an input, as far as they are known."""

Attributes = tuple[bytes, ...]


@dataclass
class Trace:
    """What is known of the values of a graph, by name.

    `shapes` lacks values whose sizes depend on numbers that are not known. `numbers` holds small known tensors;
    `plain` names values that hold nothing but sizes and constants: no stored channel flows into them. `problems`
    tells, by the name of a node's first output, why nothing is known of what it gives; `misfit` tells why the model
    cannot run with these sizes. `others` are the numbers for other sizes, once they were needed.
    """

    model: ir.Model
    dtypes: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    opsets: list[Any] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)
    misfit: str = ""
    others: dict[str, NDArray[Any]] | None = None

    @classmethod
    def start(cls, model: ir.Model, sizes: Mapping[str, Shape]) -> "Trace":
        """Inputs of the given sizes and all stored tensors; nodes are added in order by `step`."""
        trace = cls(model)
        trace.opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
        for value in model.graph.inputs:
            if value.name not in model.graph.initializers:
                trace._type(_name(value), value.dtype, sizes[_name(value)])
                pairs = zip(value.shape or (), sizes[_name(value)], strict=False)
                trace.symbols.update((str(dim.value), size) for dim, size in pairs if not isinstance(dim, int))
        for value in model.graph.initializers.values():
            trace.store(value, value.const_value)
        return trace

    def store(self, value: ir.Value, tensor: Any) -> None:
        """Note a stored tensor."""
        if tensor is None:
            return
        name = _name(value)
        shape = tuple(int(size) for size in tensor.shape)
        self._type(name, tensor.dtype, shape)
        if tensor.size <= SMALL and tensor.dtype not in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            self.numbers[name] = tensor.numpy()
        if tensor.size <= 1 or not holds_channels(value, self.dtypes[name]):
            self.plain.add(name)

    def _type(self, name: str, dtype: Any, shape: Shape) -> None:
        self.dtypes[name] = "undefined" if dtype is None else dtype_name(dtype)
        self.shapes[name] = shape

    def step(self, node: ir.Node) -> None:
        """Find out what a node gives, from what is known of its inputs."""
        if node.op_type == "Constant" and node.domain in STANDARD:
            self.store(node.outputs[0], constant_of(node))
            return
        try:
            if node.op_type == "Gemm" and node.domain in STANDARD:
                self._check_product(node)
            self._infer(node)
        except Exception as error:  # the checkers of other people's operators raise anything
            if not self._all_declared(node):
                self.problems[first_name(node)] = _brief(error)
            return
        self._evaluate(node)

    def _infer(self, node: ir.Node) -> None:
        shapes = FUSED_SHAPES.get((node.domain, node.op_type))
        if shapes is not None:
            given = [None if value is None else self.shapes[_name(value)] for value in node.inputs]
            first = self.dtypes.get(_name(node.inputs[RESULT_TYPE.get(node.op_type, 0)]), "undefined")
            for value, shape in zip(node.outputs, shapes(node, given), strict=False):
                self._type(_name(value), value.dtype or _DTYPES[first], shape)
            return
        domain = "" if node.domain in STANDARD else node.domain
        call = (node.op_type, domain, self.model.opset_imports.get(node.domain, 1), _attributes_of(node))
        for value, found in zip(node.outputs, _inferred(*call, self._known(node), len(node.outputs)), strict=True):
            if found is not None and value.name:
                self.dtypes[value.name] = found[0]
                if found[1] is not None:
                    self.shapes[value.name] = found[1]
        self._all_declared(node)

    def _check_product(self, node: ir.Node) -> None:
        """Shape inference takes Gemm for matrices of any sizes."""
        pair = [self.shapes.get(_name(value), ()) for value in node.inputs[:2]]
        flips = [int(_flag(node, name) != 0) for name in ("transA", "transB")]
        inner = [shape[place] for shape, place in zip(pair, (1 - flips[0], flips[1]), strict=True) if len(shape) == 2]
        if len(set(inner)) > 1:
            self.misfit = self.misfit or f"{first_name(node)}: Gemm of {pair[0]} and {pair[1]}"

    def _all_declared(self, node: ir.Node) -> bool:
        """Take over sizes that the model itself states, of outputs that are not known; True where all are then."""
        branches = [attr.as_graph() for attr in _attrs(node) if attr.name in ("then_branch", "else_branch")]
        for place, value in enumerate(node.outputs):
            stated = [self._declared(item) for item in (value, *(body.outputs[place] for body in branches))]
            found = next((item for item in stated if item is not None), None)
            if value.name and value.name not in self.shapes and found is not None:
                self._type(_name(value), *found)
        return all(value.name in self.shapes for value in node.outputs if value.name)

    def _declared(self, value: ir.Value) -> tuple[Any, Shape] | None:
        """The element type and the size that the model states of a value, where they are certain for these inputs."""
        if value.shape is None or value.dtype is None:
            return None
        sizes = [dim if isinstance(dim, int) else self.symbols.get(str(dim.value)) for dim in value.shape]
        known = tuple(size for size in sizes if size is not None)
        return (value.dtype, known) if len(known) == len(sizes) else None

    def _known(self, node: ir.Node) -> tuple[Known | None, ...]:
        """Element type, size and numbers of every input of a node."""
        known: list[Known | None] = []
        for value in node.inputs:
            name = _name(value)
            if value is None:
                known.append(None)
                continue
            if name not in self.dtypes:
                raise KeyError(f"nothing is known of {name}")
            numbers = self.numbers.get(name)
            known.append((self.dtypes[name], self.shapes.get(name), None if numbers is None else numbers.tobytes()))
        return tuple(known)

    def _evaluate(self, node: ir.Node) -> None:
        """Numbers of what a node gives, where its inputs are few known numbers or only their sizes matter."""
        names = [_name(value) for value in node.inputs if value is not None]
        first = _name(node.outputs[0])
        if node.op_type in _SIZES and node.domain in STANDARD:
            if names[0] in self.shapes:
                self._set(first, _sizes(node, self.shapes[names[0]]), True)
            return
        if node.domain not in STANDARD or node.op_type in _RANDOM or any(attr.type in _BODIES for attr in _attrs(node)):
            return
        if not all(name in self.numbers for name in names):
            return
        if not all(np.prod(self.shapes.get(_name(out), (SMALL + 1,))) <= SMALL for out in node.outputs):
            if node.op_type not in ("Range", "ConstantOfShape", "NonZero"):
                return
        results = _run(node, [None if v is None else self.numbers[_name(v)] for v in node.inputs], self.opsets)
        spread = node.op_type in _SPREADING and "float" in self.dtypes.get(first, "")
        plain = all(name in self.plain for name in names) and not spread
        for value, result in zip(node.outputs, results, strict=False):
            if isinstance(result, np.ndarray) and result.size <= SMALL:
                self._set(_name(value), result, plain)
        if plain and node.op_type in ("Range", "ConstantOfShape"):
            self.plain.add(first)

    def _set(self, name: str, result: NDArray[Any], plain: bool) -> None:
        self.numbers[name], self.shapes[name] = result, tuple(result.shape)
        if plain:
            self.plain.add(name)


STANDARD = ("", "ai.onnx")
_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_DTYPES = (
    {dtype.name.lower(): dtype for dtype in ir.DataType}
    | {"float32": ir.DataType.FLOAT}
    | {"float64": ir.DataType.DOUBLE}
)


@lru_cache(maxsize=1 << 16)
def _inferred(
    op: str, domain: str, version: int, attributes: Attributes, inputs: tuple[Known | None, ...], outputs: int
) -> tuple[tuple[str, Shape | None] | None, ...]:
    """What standard shape inference says of one node; programs repeat themselves, so it is remembered."""
    names = [f"i{place}" if known is not None else "" for place, known in enumerate(inputs)]
    node = onnx.NodeProto(op_type=op, domain=domain, input=names, output=[f"o{place}" for place in range(outputs)])
    node.attribute.extend(onnx.AttributeProto.FromString(attribute) for attribute in attributes)
    given = [(name, known) for name, known in zip(names, inputs, strict=True) if known is not None]
    kinds = {name: onnx.helper.make_tensor_type_proto(int(_DTYPES[dtype]), shape) for name, (dtype, shape, _) in given}
    data = {
        name: onnx.helper.make_tensor("", int(_DTYPES[dtype]), shape, numbers, raw=True)
        for name, (dtype, shape, numbers) in given
        if numbers is not None and shape is not None
    }
    schema = onnx.defs.get_schema(op, version, domain)
    opsets = [onnx.helper.make_opsetid(domain, version)]
    found = onnx.shape_inference.infer_node_outputs(schema, node, kinds, data, opset_imports=opsets)
    return tuple(_known_of(found.get(name)) for name in node.output)


def _known_of(proto: Any) -> tuple[str, Shape | None] | None:
    """Element type and size, as far as the size is known in full."""
    if proto is None or not proto.HasField("tensor_type"):
        return None
    kind = proto.tensor_type
    whole = kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)
    shape = tuple(dim.dim_value for dim in kind.shape.dim) if whole else None
    if shape is not None and not possible(shape):
        raise ValueError(f"it would give sizes {shape}")
    return dtype_name(ir.DataType(kind.elem_type)), shape


def _attributes_of(node: ir.Node) -> Attributes:
    return tuple(ir.serde.serialize_attribute(attr).SerializeToString() for attr in node.attributes.values())


def trace(model: ir.Model, sizes: Mapping[str, Shape]) -> Trace:
    """Everything that is known of a model whose inputs have the given sizes."""
    result = Trace.start(model, sizes)
    for node in model.graph:
        result.step(node)
    return result


def dtype_named(name: str) -> ir.DataType:
    """The element type of a name as numpy spells it."""
    return _DTYPES[name]


def dtype_name(dtype: ir.DataType) -> str:
    """The name of an element type, as numpy spells it."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def holds_channels(value: ir.Value, dtype: str) -> bool:
    """Whether a stored tensor may hold channels: real numbers, or whole ones that stand for them."""
    if dtype == "bool":  # a mask along channels
        return any(use.node.op_type == "Where" for use in value.uses())
    return "float" in dtype or any(_QUANTISED & {use.node.op_type, use.node.op_type[:2]} for use in value.uses())


def constant_of(node: ir.Node) -> Any:
    """The tensor that a Constant node holds; None for strings and sparse ones."""
    for attr in _attrs(node):
        if attr.name == "value":
            return attr.value
        if attr.name in ("value_int", "value_ints"):
            return ir.tensor(np.asarray(attr.value, dtype=np.int64))
        if attr.name in ("value_float", "value_floats"):
            return ir.tensor(np.asarray(attr.value, dtype=np.float32))
    return None


def set_constant(value: ir.Value, tensor: Any) -> None:
    """Let an initializer or a Constant node hold another tensor."""
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        producer.attributes.clear()
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
    if value.shape is not None and value.type is not None:
        value.shape = ir.Shape(list(tensor.shape))


def _attrs(node: ir.Node) -> list[ir.Attr]:
    return [attr for attr in node.attributes.values() if isinstance(attr, ir.Attr)]


def _flag(node: ir.Node, name: str) -> int:
    attr = node.attributes.get(name)
    return attr.as_int() if attr is not None else 0


def first_name(node: ir.Node) -> str:
    """The name of the first output that has one, which tells nodes apart."""
    return next((value.name for value in node.outputs if value.name), "")


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.name is None else value.name


def _sizes(node: ir.Node, shape: Shape) -> NDArray[np.int64]:
    if node.op_type == "Size":
        return np.asarray(np.prod(shape, dtype=np.int64))
    start, end = node.attributes.get("start"), node.attributes.get("end")
    cut = slice(start.as_int() if start else None, end.as_int() if end else None)
    return np.asarray(shape[cut], dtype=np.int64)


def _run(node: ir.Node, inputs: list[Any], opsets: list[Any]) -> tuple[Any, ...]:
    """What a node of the standard gives for known numbers; nothing where it cannot be said."""
    versions = {opset.domain: opset.version for opset in opsets}
    parameters = {"opsets": versions, "log": lambda *_: None, "verbose": 0, "new_ops": {}, "evaluator_cls": None}
    proto = ir.serde.serialize_node(node)
    while inputs and inputs[-1] is None:
        inputs.pop()
    try:
        operation = load_op("", node.op_type, versions.get("", 1))(proto, parameters)
        return tuple(operation.run(*inputs))
    except Exception:  # the reference implementation lacks some operators and some element types
        return ()


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
