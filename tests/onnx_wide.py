"""ONNX models in float64: every float type of a ModelProto becomes double, for the reference evaluator."""

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference.op_run import OpRun

NARROW = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float tensors, casts, inputs and outputs are double."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    for function in wide.functions:
        del function.value_info[:]
        _widen_nodes(function.node)
    return wide


def plain_constant(node: onnx.NodeProto) -> TensorProto | None:
    """What a Constant node holds, as a tensor, whichever attribute it is written in."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    kinds = {"value_float": TensorProto.FLOAT, "value_floats": TensorProto.FLOAT}
    kinds |= {"value_int": TensorProto.INT64, "value_ints": TensorProto.INT64}
    if attribute.name == "value":
        return attribute.t
    if attribute.name not in kinds:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    shape = [len(value)] if attribute.name.endswith("s") else []
    return onnx.helper.make_tensor(node.output[0], kinds[attribute.name], shape, value if shape else [value])


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    _widen_nodes(graph.node)


def _widen_nodes(nodes) -> None:
    for node in nodes:
        constant = plain_constant(node)
        if constant is not None:
            kept = TensorProto()
            kept.CopyFrom(constant)
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", kept))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _widen_graph(attribute.g)
            elif attribute.name in ("to", "dtype") and attribute.i in NARROW:
                attribute.i = TensorProto.DOUBLE


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float64"), tensor.name))


class BatchNormalization(OpRun):
    """Inference in every opset; the evaluator's own takes the statistics of the batch before opset 14."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=1e-5, **unused):
        spread = (-1, *[1] * (x.ndim - 2))
        scale, bias, mean, var = (array.reshape(spread) for array in (scale, bias, mean, var))
        return ((x - mean) / np.sqrt(var + epsilon) * scale + bias,)


class Strange(OpRun):
    """An operation of a domain that nobody knows."""

    op_domain = "test.strange"

    def _run(self, x, power=1):
        return (x[..., ::-1] ** power + 1,)


OPERATIONS = [BatchNormalization, Strange]
"""Operations that the evaluator lacks or gets wrong."""
