"""Operators of quantised ONNX models.

`QuantizeLinear` and `DequantizeLinear` stay what they are; `integers.py` finds the products between them. Operators
that take and return quantised tensors are spelled out as dequantize, the float operator, and quantize, which that file
then recognises. `MatMulInteger` is a product of integers from the start.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from tvm import relax

from ..errors import CompileError
from .onnx_node import Converter, Node
from .rewriting import dtype_of, shape_of

_BYTES = ("uint8", "int8")


@dataclass(frozen=True)
class _Spelling:
    """How an operator is spelled out: where its quantised operands, and scale and zero point of the result, are found.

    An operand is followed by its scale and zero point. `bias` is the place of an int32 bias, whose scale is that of the
    product of the first two operands. `channels` is the axis along which the second operand may have scales. A
    `variadic` operator has its operands at the end, as many as there are.
    """

    kind: str
    operands: tuple[int, ...]
    result: int
    bias: int | None = None
    channels: int = 1
    variadic: bool = False


_SPELLED = {
    "QLinearConv": _Spelling("Conv", (0, 3), 6, bias=8, channels=0),
    "QLinearMatMul": _Spelling("MatMul", (0, 3), 6),
    "com.microsoft.QGemm": _Spelling("Gemm", (0, 3), 7, bias=6),
    "com.microsoft.QLinearConcat": _Spelling("Concat", (), 0, variadic=True),
    "com.microsoft.QLinearSoftmax": _Spelling("Softmax", (0,), 3),
    "com.microsoft.QLinearAdd": _Spelling("Add", (0, 3), 6),
    "com.microsoft.QLinearMul": _Spelling("Mul", (0, 3), 6),
    "com.microsoft.QLinearGlobalAveragePool": _Spelling("GlobalAveragePool", (0,), 3),
    "com.microsoft.QLinearAveragePool": _Spelling("AveragePool", (0,), 3),
    "com.microsoft.QLinearSigmoid": _Spelling("Sigmoid", (0,), 3),
    "com.microsoft.QLinearLeakyRelu": _Spelling("LeakyRelu", (0,), 3),
}
QUANTISED = frozenset(_SPELLED)


def spell_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators on quantised tensors as float operators between dequantize and quantize.

    A model without such operators is returned as it is; no model is changed.
    """
    names = {_key(node) for node in model.graph.node}
    if not names & QUANTISED:
        return model
    spelled = onnx.ModelProto()
    spelled.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(model.graph.node):
        spelling = _SPELLED.get(_key(node))
        nodes += [node] if spelling is None else _nodes(node, spelling, f"{node.output[0]}.{number}")
    del spelled.graph.node[:]
    spelled.graph.node.extend(nodes)
    return spelled


def _key(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _nodes(node: onnx.NodeProto, spelling: _Spelling, prefix: str) -> list[onnx.NodeProto]:
    """The nodes in the place of one."""
    attributes = {a.name: a for a in node.attribute}
    if "channels_last" in attributes and attributes.pop("channels_last").i:
        raise CompileError(f"the node {node.name or node.output[0]!r} ({_key(node)}) has its channels last")
    if "opset" in attributes and attributes.pop("opset").i < 13 and attributes["axis"].i != -1:
        raise CompileError(f"the node {node.name or node.output[0]!r} ({_key(node)}) is a softmax over several axes")
    turned = "transB" in attributes and bool(attributes["transB"].i)
    operands = range(2, len(node.input), 3) if spelling.variadic else spelling.operands
    given = list(node.input) + [""] * 10
    made, values = [], []
    for place, start in enumerate(operands):
        axis = (0 if turned else spelling.channels) if place == 1 else 1
        made.append(_dequantize(given[start : start + 3], f"{prefix}.{place}", axis))
        values.append(made[-1].output[0])
    if spelling.bias is not None and given[spelling.bias]:
        scales = [given[start + 1] for start in spelling.operands]
        made.append(helper.make_node("Mul", scales, [f"{prefix}.scale"]))
        made.append(_dequantize([given[spelling.bias], f"{prefix}.scale"], f"{prefix}.bias", 0))
        values.append(made[-1].output[0])
    result = f"{prefix}.result"
    operator = helper.make_node(spelling.kind, values, [result], name=node.name)
    operator.attribute.extend(attributes.values())
    scale, zero = given[spelling.result : spelling.result + 2]
    if not scale:
        operator.output[0] = node.output[0]
        return [*made, operator]
    quantize = helper.make_node("QuantizeLinear", [result, scale, *([zero] if zero else [])], list(node.output))
    return [*made, operator, quantize]


def _dequantize(inputs: list[str], name: str, axis: int) -> onnx.NodeProto:
    named = inputs if inputs[-1] else inputs[:-1]
    return helper.make_node("DequantizeLinear", named, [name], axis=axis)


def _dequantize_linear(node: Node) -> relax.Expr:
    """Floats again; constants, too, unless a product reads them as integers."""
    if node.attributes.get("block_size", 0):
        raise CompileError("it is quantised in blocks")
    scale, zero = _parameters(node, dtype_of(node.data))
    axis = node.attributes.get("axis", 1) if shape_of(scale) and len(shape_of(node.data)) > 1 else -1
    return relax.op.dequantize(node.data, scale, zero, axis, "float32")


def _quantize_linear(node: Node) -> relax.Expr:
    """Integers, rounded half to even; one scale for all has no axis."""
    if node.input(2) is None and node.attributes.get("output_dtype", 0):
        return node.tvm()
    scale, zero = _parameters(node, "uint8")
    attributes = {**node.attributes, "axis": node.attributes.get("axis", 1) if shape_of(scale) else -1}
    return node.standard([node.data, scale, zero], attributes)


def _parameters(node: Node, dtype: str) -> tuple[relax.Expr, relax.Expr]:
    """Scale and zero point; where they are one constant number, without axes."""
    scale, zero = node.input(1), node.input(2)
    zero = relax.const(np.zeros(shape_of(scale), dtype)) if zero is None else zero
    return _one_number(node, scale), _one_number(node, zero)


def _one_number(node: Node, value: relax.Expr) -> relax.Expr:
    number = node.value(value)
    return relax.const(number.reshape(())) if number is not None and number.size == 1 else value


def _matmul_integer(node: Node) -> relax.Expr:
    """A product of bytes by constant weights; the zero points are taken into account by sums of the weights."""
    weight, zeros = node.constant(1), node.constant(3)
    left, zero = node.data, node.input(2)
    plain = zero is None or int(np.prod(shape_of(zero))) == 1
    if weight is None or weight.ndim != 2 or not plain or (node.input(3) is not None and zeros is None):
        return node.tvm()
    numbers = weight.astype(np.int32) - (0 if zeros is None else zeros.astype(np.int32))
    if numbers.min(initial=0) < -128 or numbers.max(initial=0) > 127 or len(shape_of(left)) < 2:
        return node.tvm()
    shift = 0
    if dtype_of(left) == "int8":
        shift = 128
        lifted = node.emit(relax.op.add(node.emit(relax.op.astype(left, "int16")), relax.const(shift, "int16")))
        left = node.emit(relax.op.astype(lifted, "uint8"))
    sums = node.emit(relax.op.matmul(left, relax.const(numbers.astype(np.int8)), "int32"))
    columns = relax.const(numbers.sum(axis=0, dtype=np.int32))
    if zero is None and not shift:
        return sums
    origin = relax.const(shift, "int32")
    if zero is not None:
        flat = node.emit(relax.op.reshape(node.emit(relax.op.astype(zero, "int32")), ()))
        origin = node.emit(relax.op.add(flat, origin))
    return relax.op.subtract(sums, node.emit(relax.op.multiply(columns, origin)))


CONVERTERS: dict[str, Converter] = {
    "DequantizeLinear": _dequantize_linear,
    "MatMulInteger": _matmul_integer,
    "QuantizeLinear": _quantize_linear,
}
