"""The masked original of an ONNX model: what a plan drops is set to what means zero there."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import graphprune
from onnx_wide import NARROW, plain_constant

FLOATS = {*NARROW, TensorProto.DOUBLE}
BYTES = {TensorProto.INT8, TensorProto.UINT8}


def masked(model: onnx.ModelProto, plan: graphprune.Plan) -> onnx.ModelProto:
    """The original with every dropped position of every stored tensor set to what means zero there."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    places = stored(result)
    zeros = zero_points(result)
    for name, axes in plan.kept.items():
        if name not in places and name.rpartition("/")[0] in places:
            continue  # a copy that the slim model merged again, because it keeps the same positions
        tensor = places[name]
        array = numpy_helper.to_array(tensor).copy()
        if tensor.data_type in FLOATS:
            zero = np.zeros(array.shape, dtype=array.dtype)
        elif name in zeros:
            zero = np.broadcast_to(zeros[name], array.shape)
        else:
            continue  # an index looks dropped positions up, and finds zeros there; scales of zeros do not matter
        if name in _scales(result):
            continue
        for axis, kept in axes.items():
            dropped = _dropped(array.shape, axis, kept)
            array[dropped] = zero[dropped]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return result


def unshared(model: onnx.ModelProto, slim: onnx.ModelProto, plan: graphprune.Plan) -> onnx.ModelProto:
    """The original with a tensor of its own wherever the slim model has one: `b/1` is a copy of `b` for one reader."""
    result = copied(model)
    tensors, readers = stored(result), {node.output[0]: node for node in result.graph.node}
    for name, _tensor in stored(copied(slim)).items():
        source, _, number = name.rpartition("/")
        if name in tensors or source not in tensors or not number.isdigit():
            continue
        copy = result.graph.initializer.add()
        copy.CopyFrom(tensors[source])
        copy.name = name
        for node in slim.graph.node:
            for place in (place for place, read in enumerate(node.input) if read == name):
                assert readers[node.output[0]].input[place] == source
                readers[node.output[0]].input[place] = name
    return result


def _dropped(shape: tuple[int, ...], axis: int, kept: np.ndarray) -> np.ndarray:
    """True where positions of an axis go; `kept` has one row per block of axis 0, or is one row."""
    rows = np.atleast_2d(kept)
    gone = np.ones((len(rows), shape[axis]), dtype=bool)
    for row, own in zip(gone, rows, strict=True):
        row[own] = False
    gone = np.repeat(gone, shape[0] // len(rows) if kept.ndim == 2 else 1, axis=0)
    spread = [1] * len(shape)
    spread[axis] = shape[axis]
    if kept.ndim == 2:
        spread[0] = shape[0]
    return np.broadcast_to(gone.reshape(spread), shape)


def stored(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initializers and what Constant nodes hold, by name; the tensors are those of the model, to be written into."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        constant = plain_constant(node)
        if constant is None:
            continue
        if node.attribute[0].name != "value":
            tensor = TensorProto()
            tensor.CopyFrom(constant)
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", tensor))
        found[node.output[0]] = node.attribute[0].t
    return found


_QUANTISED = {  # operation: {input that holds integers: input that holds their zero point, or None}
    "DequantizeLinear": {0: 2},
    "QLinearConv": {0: 2, 3: 5, 8: None},
    "QLinearMatMul": {0: 2, 3: 5},
    "ConvInteger": {0: 2, 1: 3},
    "MatMulInteger": {0: 2, 1: 3},
}
_SCALES = {"DequantizeLinear": (1,), "QuantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6)}


def zero_points(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """For stored integers that stand for real numbers: the integer that stands for zero, ready to be broadcast."""
    tensors = stored(model)
    found = {}
    for node in model.graph.node:
        for place, beside in _QUANTISED.get(node.op_type, {}).items():
            name = node.input[place] if place < len(node.input) else ""
            if name not in tensors:
                continue
            zero = node.input[beside] if beside is not None and beside < len(node.input) else ""
            point = numpy_helper.to_array(tensors[zero]) if zero in tensors else np.zeros((), dtype=np.int8)
            if point.ndim == 1 and point.size > 1:  # one per channel
                spread = [1] * len(tensors[name].dims)
                spread[_channel_axis(node, len(spread))] = point.size
                point = point.reshape(spread)
            found[name] = point.reshape(()) if point.size == 1 else point
    return found


def _channel_axis(node: onnx.NodeProto, rank: int) -> int:
    if node.op_type == "DequantizeLinear":
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        return axis % rank
    return 0 if "Conv" in node.op_type else rank - 1


def _scales(model: onnx.ModelProto) -> set[str]:
    places = ((node, place) for node in model.graph.node for place in _SCALES.get(node.op_type, ()))
    return {node.input[place] for node, place in places if place < len(node.input)}


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other
