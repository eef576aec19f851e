"""From an ONNX model to a Relax module: TVM's importer, with converters of our own where it lacks or errs.

To add an operator, write a function `(node) -> relax.Expr` and put it in `CONVERTERS` of `onnx_converters.py`.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map, onnx_input

from ..errors import CompileError, ExampleInputsError, UnsupportedModelError
from ..frontends.onnx.files import read
from ..frontends.onnx.messages import to_proto
from . import onnx_half, onnx_quantised
from .halving import half_borders
from .imported import Imported, brief
from .onnx_converters import CONVERTERS, REFUSED, SPELLED_OUT
from .onnx_node import Node
from .onnx_static import Shape, key_of, make_static, opset_of, static_shape
from .precision import SINGLE, half_named
from .rewriting import shape_of
from .specs import TensorSpec

_SUPPORTED = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16,
    TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip


def import_model(model: Any, example_inputs: Any) -> Imported:
    """An ONNX model or the path of one as a Relax module with its signature."""
    proto = _model(model)
    inputs = _inputs(proto, example_inputs)
    halves = onnx_half.halves_of(proto)
    single = onnx_quantised.spell_out(onnx_half.in_float32(proto) if halves else proto)
    static = make_static(single, {spec.name: spec.shape for spec in inputs}, _keeps)
    _check_element_types(static)
    module, results = _import(static, inputs)
    outputs = [_tensor_spec(value.name, result) for value, result in zip(proto.graph.output, results, strict=True)]
    if halves:
        kinds = [onnx_half.dtype_of_output(value) for value in proto.graph.output]
        outputs = [replace(spec, dtype=kind or spec.dtype) for spec, kind in zip(outputs, kinds, strict=True)]
        module = half_borders(module, *([half_named(spec.dtype) for spec in specs] for specs in (inputs, outputs)))
    tree = {"kind": "tuple", "items": list(range(len(outputs)))} if len(outputs) != 1 else 0
    precision = half_named(halves[0]).name if halves else SINGLE
    tools = {"onnx": onnx.__version__}
    return Imported(module, inputs, outputs, tree, tools, precision=precision, named=lambda: _weights(static))


def _weights(model: onnx.ModelProto) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of a static model by their names."""
    for tensor in model.graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)


def prepare_batches(model: Any, example_inputs: Any) -> tuple[onnx.ModelProto, Any]:
    """A model that can be imported for several batch sizes, and its example inputs."""
    proto = _model(model)
    if example_inputs is not None:
        return proto, example_inputs
    constants = {tensor.name for tensor in proto.graph.initializer}
    examples = {}
    for value in (value for value in proto.graph.input if value.name not in constants):
        shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        if 0 in shape[1:]:
            _input(value, None)  # says which axes are dynamic
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        examples[value.name] = np.zeros([extent or 1 for extent in shape], dtype)
    return proto, examples


def _model(origin: Any) -> onnx.ModelProto:
    """A checked `onnx.ModelProto` with all its weights, whatever was given."""
    model = read(origin)
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    apart = [value for value in values if isinstance(value.const_value, onnx_ir.ExternalTensor)]
    return to_proto(model, {value: onnx_ir.tensor(value.const_value.numpy(), name=value.name) for value in apart})


def _inputs(model: onnx.ModelProto, example_inputs: Any) -> list[TensorSpec]:
    """The inputs with the shapes of the examples; those that the model lists beside their values are constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    shapes = _example_shapes([value.name for value in values], example_inputs)
    return [_input(value, shapes.get(value.name)) for value in values]


def _example_shapes(names: list[str], example_inputs: Any) -> dict[str, Shape]:
    """The shapes of the examples by the names of the inputs."""
    if example_inputs is None:
        return {}
    if isinstance(example_inputs, Mapping):
        given = dict(example_inputs)
    else:
        examples = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
        if len(examples) != len(names):
            raise ExampleInputsError(
                f"the model has {len(names)} input(s) ({', '.join(names)}), but example_inputs has {len(examples)}"
            )
        given = dict(zip(names, examples, strict=True))
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ExampleInputsError(f"the model has no input {unknown[0]!r}; its inputs are {', '.join(names)}")
    return {name: tuple(int(extent) for extent in np.shape(value)) for name, value in given.items()}


def _input(value: onnx.ValueInfoProto, shape: Shape | None) -> TensorSpec:
    """One input as a static tensor."""
    name, tensor = value.name, value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise UnsupportedModelError(f"input {name!r} is not a tensor; only models of tensors are compiled")
    if tensor.elem_type not in _SUPPORTED:
        raise UnsupportedModelError(_element_message(f"input {name!r}", tensor.elem_type))
    declared = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim]
    if shape is None:
        shape = static_shape(value)
    if shape is not None and 0 in shape:
        raise UnsupportedModelError(f"input {name!r} of shape {list(shape)} is empty: there is nothing to compute")
    if shape is None:
        raise ExampleInputsError(
            f"input {name!r} has the shape {_brackets(declared)}: give example_inputs to fix its dynamic axes, such as "
            f"{{{name!r}: np.zeros({tuple(n if isinstance(n, int) else 1 for n in declared)}, np.float32)}}"
        )
    misfit = len(shape) != len(declared) or any(
        isinstance(want, int) and want != have for want, have in zip(declared, shape, strict=True)
    )
    if tensor.HasField("shape") and misfit:
        raise ExampleInputsError(
            f"input {name!r} has the shape {_brackets(declared)}, but its example has {list(shape)}"
        )
    return TensorSpec(name, shape, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def _brackets(extents: list[Any]) -> str:
    return f"[{', '.join(str(extent) for extent in extents)}]"


def _check_element_types(model: onnx.ModelProto) -> None:
    """Floating-point weights must be float32, or were converted to it."""
    for tensor in model.graph.initializer:
        if tensor.data_type not in _SUPPORTED:
            raise UnsupportedModelError(_element_message(f"the weight {tensor.name!r}", tensor.data_type))


def _element_message(what: str, kind: int) -> str:
    name = TensorProto.DataType.Name(kind).lower()
    return (
        f"{what} is {name}; only float32, float16 and bfloat16 (and integers and truth values) are compiled: convert "
        "the model to float32"
    )


def _tensor_spec(name: str, result: relax.Expr) -> TensorSpec:
    shape = shape_of(result)
    if shape is None:
        raise CompileError(
            f"the shape of the output {name!r} depends on the numbers that go in; cut the model before that point"
        )
    return TensorSpec(name, shape, str(result.ty.dtype))


# Operators of other domains that TVM takes for ONNX's own.
_FOREIGN = {
    "AllClassNMS",
    "BiasGelu",
    "EmbedLayerNormalization",
    "FastGelu",
    "MatMulInteger16",
    "SkipLayerNormalization",
}
_TVM = {name: kind for name, kind in _get_convert_map().items() if name not in {*REFUSED, *SPELLED_OUT, *_FOREIGN}}


def _keeps(node: onnx.NodeProto) -> bool:
    """Whether a node is imported as it is; others are spelled out where ONNX defines them by simpler ones."""
    # Means and deviations beside the normalised tensor.
    if node.op_type == "LayerNormalization" and any(node.output[1:]):
        return False
    if node.op_type == "SpaceToDepth" and any(attribute.name == "mode" for attribute in node.attribute):
        return False
    key = key_of(node)
    return key in CONVERTERS or key in _TVM


class _Importer(ONNXGraphImporter):
    """TVM's importer with its loop over the nodes replaced: errors name the node, our converters come first."""

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            if not _keeps(node):
                raise CompileError(f"{_title(node)} cannot be compiled{_why(node)}")

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            try:
                results = self._convert(node)
            except CompileError as error:
                raise CompileError(f"{_title(node)}: {error}") from error
            except Exception as error:
                raise CompileError(f"{_title(node)} cannot be compiled: {brief(error)}{_WAY_OUT}") from error
            for name, result in zip(node.output, results, strict=False):
                self._nodes[name] = result

    def _convert(self, node: onnx.NodeProto) -> list[relax.Expr]:
        """The results of one node, each a tensor of known shape."""
        inputs = [self._nodes[name] if name else None for name in node.input]
        attributes = self._parse_attr(node.attribute)
        key = key_of(node)

        def standard(values: list[relax.Expr | None], numbers: dict[str, Any]) -> relax.Expr:
            numbers = {**numbers, "tvm_custom": {"name": node.name, "num_outputs": len(node.output)}}
            converter = _TVM[key].get_converter(self.opset)
            return converter(self.bb, onnx_input(values), numbers, [self._nodes, self._params])

        if key in CONVERTERS:
            names = list(node.output)
            value = CONVERTERS[key](Node(self.bb, inputs, attributes, names, self.opset, standard))
        else:
            value = standard(inputs, attributes)
        value = self.bb.normalize(value)
        if isinstance(value.ty, relax.TupleType):
            value = value if isinstance(value, relax.Tuple) else self.bb.emit(value)
            parts = [self.bb.normalize(value[index]) for index in range(len(value.ty.fields))]
        else:
            parts = [value]
        if len(parts) < sum(map(bool, node.output)):
            raise CompileError(f"only the first {len(parts)} of its outputs can be compiled")
        for part in parts:
            if shape_of(part) is None:
                raise CompileError("the shape of its result depends on the numbers that go in")
        return [part if isinstance(part, tvm.ir.GenericConst) else self.bb.emit(part) for part in parts]


_WAY_OUT = "; replace the operator in the model, or add it to graphprune.backends.onnx_converters.CONVERTERS"


def _title(node: onnx.NodeProto) -> str:
    return f"the node {node.name or node.output[0]!r} ({key_of(node)})"


def _why(node: onnx.NodeProto) -> str:
    reason = REFUSED.get(key_of(node))
    return (f" ({reason})" if reason else "") + _WAY_OUT


def _import(model: onnx.ModelProto, inputs: list[TensorSpec]) -> tuple[tvm.IRModule, list[relax.Expr]]:
    """The Relax module of a static model, and its results."""
    importer = _Importer({spec.name: list(spec.shape) for spec in inputs}, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that are not identifiers
        try:
            module = importer.from_onnx(model.graph, opset_of(model))
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(f"the model cannot be compiled: {brief(error)}") from error
    return module, [importer._nodes[value.name] for value in model.graph.output]
