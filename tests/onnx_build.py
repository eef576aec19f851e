"""Small ONNX models from text: nodes in the syntax of onnx.parser, weights by their shapes."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

IMAGE = "float[N,3,8,8] x"
ROWS = "float[N,5,6] x"
IR_VERSIONS = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8}


@dataclass(frozen=True)
class Pattern:
    """A model and what is expected of it.

    `locked`: what the explanation of the analysis must say; `untouched`: names of nodes that stay byte for byte (a node
    is named after its first output); `sizes`: two sizes for a dynamic axis; `highest`: integers of inputs are below it;
    `inexact`: dropping is not masking here; `refused`: there is nothing that may go.
    """

    model: onnx.ModelProto
    locked: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    highest: int = 2
    inexact: bool = False
    refused: bool = False
    sparsity: float = 0.4

    def but(self, **changes: Any) -> "Pattern":
        """The same with some expectations changed."""
        return replace(self, **changes)


def net(inputs: str, body: str, *, opset: int = 17, out: str = "y", functions: str = "", **weights: Any) -> Pattern:
    """A model of some nodes; what a body reads that no node makes is an input or one of `weights`.

    A weight is a shape (random numbers, seeded by its name), a list (int64), a number (a scalar) or an array.
    """
    domains = f'"": {opset}, "com.microsoft": 1, "local": 1, "test.strange": 1'
    header = f"<ir_version: {IR_VERSIONS.get(opset, 10)}, opset_import: [{domains}]>"
    model = onnx.parser.parse_model(f"{header} g ({inputs}) => ({out}) {{ {body} }} {functions}")
    used = {node.domain for node in _every_node(model.graph.node)}
    imports = [item for item in model.opset_import if item.domain in used or not item.domain]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    for node in _every_node((*model.graph.node, *(node for function in model.functions for node in function.node))):
        if not node.domain:
            node.ClearField("domain")  # the parser writes it down where it is empty
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(tensor(name, value) for name, value in weights.items())
    if model.ir_version < 4:
        _list_as_inputs(model)
    _type_outputs(model)
    model.graph.doc_string, model.producer_name, model.model_version = "drawn by hand", "the tests", 3
    model.metadata_props.add(key="author", value="a test")
    model.graph.node[0].doc_string = "the first"
    return Pattern(model)


def through(middle: str, *, opset: int = 17, wide: int = 16, **weights: Any) -> Pattern:
    """Two convolutions with something between: what makes `m` of `r` (N x 16 x 8 x 8) must be understood to prune."""
    body = f"pre = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(pre) {middle} y = Conv(m, w2, b2)"
    ends = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (4, wide, 1, 1), "b2": (4,)}
    return net(IMAGE, body, opset=opset, out=_named(middle, "float[N,4,8,8] y"), **ends, **weights)


def rows(middle: str, *, opset: int = 17, inputs: str = ROWS, wide: int = 16, **weights) -> Pattern:
    """Two matrix products with something between: what makes `m` of `r` (N x 5 x 16) must be understood to prune."""
    body = f"lin = MatMul(x, w1) pre = Add(lin, b1) r = Relu(pre) {middle} y = MatMul(m, w2)"
    return net(
        inputs, body, opset=opset, out=_named(middle, "float[N,5,4] y"), w1=(6, 16), b1=(16,), w2=(wide, 4), **weights
    )


def tensor(name: str, value: Any) -> TensorProto:
    """A stored tensor: random floats for a shape, int64 for a list, a scalar for a number."""
    if isinstance(value, tuple):
        value = random(name, value)
    elif isinstance(value, list):
        value = np.array(value, dtype=np.int64)
    elif isinstance(value, float):
        value = np.float32(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        value = np.int64(value)
    return numpy_helper.from_array(np.asarray(value), name)


def random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers that tell: variances (`v...`) and scales (`g...`) positive, vectors small, matrices by fan-in."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if name[0] in "vg":
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    fan = np.prod(shape) ** 0.5 if len(shape) < 3 else np.prod(shape[1:])
    scale = 0.3 if len(shape) < 2 else fan**-0.5
    return (generator.standard_normal(shape) * scale).astype(np.float32)


def in_type(pattern: Pattern, kind: int) -> Pattern:
    """The same model in float16, bfloat16 or double."""
    model = onnx.ModelProto()
    model.CopyFrom(pattern.model)
    dtype = ml_dtypes.bfloat16 if kind == TensorProto.BFLOAT16 else onnx.helper.tensor_dtype_to_np_dtype(kind)
    for stored in model.graph.initializer:
        if stored.data_type == TensorProto.FLOAT:
            stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored).astype(dtype), stored.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    return pattern.but(model=model)


def in_constants(pattern: Pattern) -> Pattern:
    """The same model with its weights in Constant nodes."""
    model = onnx.ModelProto()
    model.CopyFrom(pattern.model)
    constants = [
        onnx.helper.make_node("Constant", [], [stored.name], name=f"c_{stored.name}", value=stored)
        for stored in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return pattern.but(model=model)


def listed_as_inputs(pattern: Pattern) -> Pattern:
    """The same model in the way of old files: initializers are graph inputs too."""
    model = onnx.ModelProto()
    model.CopyFrom(pattern.model)
    _list_as_inputs(model)
    return pattern.but(model=model)


def _list_as_inputs(model: onnx.ModelProto) -> None:
    for stored in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(stored.name, stored.data_type, stored.dims))


def _named(middle: str, output: str) -> str:
    """The type of the output is written down where shape inference does not find it."""
    return output if "com.microsoft" in middle or "GroupNormalization" in middle else "y"


def _every_node(nodes):
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _every_node(attribute.g.node)


def _type_outputs(model: onnx.ModelProto) -> None:
    """Outputs without a type get the one that shape inference finds."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found = {value.name: value for value in (*inferred.graph.output, *inferred.graph.value_info)}
    for output in model.graph.output:
        if not output.type.tensor_type.elem_type:
            output.CopyFrom(found[output.name])
        if not output.type.tensor_type.elem_type:
            output.type.tensor_type.elem_type = TensorProto.FLOAT
