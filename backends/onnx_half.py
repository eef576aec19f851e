"""ONNX models in half precision, as the same models in float32.

The weights keep their numbers, and only their type changes; what the model computes in half precision is computed in
float32.
"""

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Attributes that name an element type.
_KINDS = ("to", "dtype", "output_dtype")


def halves_of(model: onnx.ModelProto) -> list[str]:
    """The formats of half precision among weights and inputs, the one with the most numbers first."""
    counts: Counter[int] = Counter()
    for tensor in _tensors(model.graph):
        counts[tensor.data_type] += int(np.prod(tensor.dims))
    for value in model.graph.input:
        counts[value.type.tensor_type.elem_type] += 1
    return [TensorProto.DataType.Name(kind).lower() for kind, _ in counts.most_common() if kind in _HALVES]


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """The weights of a graph, those in Constant nodes included."""
    constants = [attribute.t for node in graph.node for attribute in node.attribute if attribute.HasField("t")]
    return [*graph.initializer, *constants]


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 in the place of every format of half precision; the given one stays as it is."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    _convert_graph(single.graph)
    for function in single.functions:
        for value in function.value_info:
            _convert_type(value.type)
        for node in function.node:
            _convert_node(node)
    return single


def _convert_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _convert_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _convert_type(value.type)
    for node in graph.node:
        _convert_node(node)


def _convert_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in _KINDS and attribute.i in _HALVES:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            _convert_tensor(attribute.t)
        for tensor in attribute.tensors:
            _convert_tensor(tensor)
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            _convert_graph(graph)


def _convert_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _HALVES:
        numbers = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))


def _convert_type(kind: onnx.TypeProto) -> None:
    if kind.HasField("tensor_type") and kind.tensor_type.elem_type in _HALVES:
        kind.tensor_type.elem_type = TensorProto.FLOAT


def dtype_of_output(value: onnx.ValueInfoProto) -> str | None:
    """The format of half precision that an output is declared in, or None."""
    kind = value.type.tensor_type.elem_type
    return TensorProto.DataType.Name(kind).lower() if kind in _HALVES else None
