"""Makes an ONNX model static: every shape a number, everything known computed, nothing left but plain operators.

```python
model = make_static(model, {"x": (1, 3, 224, 224)}, keeps=lambda node: node.op_type != "Celu")
```
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import helper, numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

from ..errors import CompileError
from .imported import brief

Shape = tuple[int, ...]
Keeps = Callable[[onnx.NodeProto], bool]
# Weights of more bytes than this play no part in the inference of shapes.
_LARGE = 4096
# Computed anew by each call: folding would freeze them.
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_ROUNDS = 20
# Levels of ONNX Runtime's messages; it starts at the latter.
_ERRORS, _WARNINGS = 3, 2
# The domain of functions that stand for operators while they are spelled out.
_SPELLED = "graphprune.spelled"


def make_static(model: onnx.ModelProto, shapes: Mapping[str, Shape], keeps: Keeps) -> onnx.ModelProto:
    """The model with its inputs fixed to `shapes`, in which every function but those that it `keeps` is spelled out.

    Functions are those of the model and operators that ONNX defines by others. Shapes and whatever depends on
    constants alone are computed, in rounds, until nothing changes. The given model stays as it is.
    """
    model = _spell_out(model, keeps)
    _fix_inputs(model.graph, shapes)
    for _ in range(_ROUNDS):
        before = len(model.graph.node)
        known = infer_shapes(model)
        found = _fold_shapes(model.graph, known)
        model = _fold_constants(model)
        found = _choose_branches(model.graph) or found
        model = _spell_out(model, keeps)
        if not found and len(model.graph.node) == before:
            break
    return model


def _spell_out(model: onnx.ModelProto, keeps: Keeps) -> onnx.ModelProto:
    """Replace calls of the model's own functions and of operators that are defined by others."""
    model = _copy(model)
    try:
        for _ in range(_ROUNDS):
            # Local functions first: their bodies may call what is defined by others.
            if model.functions:
                model = onnx.inliner.inline_local_functions(model)
            opset = opset_of(model)
            strange = [node for node in nodes_of(model.graph) if not keeps(node) and _has_body(node, opset)]
            if not strange:
                break
            kinds = _types(infer_types(model).graph)
            for number, node in enumerate(strange):
                _define(model, node, kinds, f"{node.op_type}_{number}")
        return model
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(f"the functions of the model could not be spelled out: {brief(error)}") from error


def _define(model: onnx.ModelProto, node: onnx.NodeProto, kinds: Mapping[str, onnx.TypeProto], name: str) -> None:
    """Turn a node into the call of a function of the model with the body that ONNX gives for it."""
    opset = opset_of(model)
    schema = onnx.defs.get_schema(node.op_type, opset)
    given = {attribute.name for attribute in node.attribute}
    defaults = [attribute.default_value for attribute in schema.attributes.values()]
    node.attribute.extend(value for value in defaults if value.name and value.name not in given)
    if schema.has_context_dependent_function:
        types = [kinds.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        version = max(v for v in schema.context_dependent_function_opset_versions if v <= opset)
        body = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
    else:
        version = max(v for v in schema.function_opset_versions if v <= opset)
        body = schema.get_function_with_opset_version(version)
    function = onnx.FunctionProto()
    function.ParseFromString(body if isinstance(body, bytes) else body.SerializeToString())
    function.domain, function.name = _SPELLED, name
    if _SPELLED not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_SPELLED, 1))
    for entry in function.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    node.domain, node.op_type = _SPELLED, name
    model.functions.append(function)


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """The types of all values that are known."""
    weights = {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
    return {**weights, **{value.name: value.type for value in [*graph.input, *graph.value_info, *graph.output]}}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def key_of(node: onnx.NodeProto) -> str:
    """The name of an operator: with its domain, unless that is ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _has_body(node: onnx.NodeProto, opset: int) -> bool:
    """Whether ONNX defines an operator by others."""
    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the operators of ONNX itself that a model uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from nodes_of(inner)


def _fix_inputs(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Write shapes into the inputs and forget what the model says of other values: it may be of another size."""
    for value in graph.input:
        if value.name in shapes:
            fixed = helper.make_tensor_type_proto(value.type.tensor_type.elem_type, shapes[value.name])
            value.type.CopyFrom(fixed)
    del graph.value_info[:]
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def infer_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of all values, for bodies that depend on them."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise CompileError(f"the shapes of the model do not fit: {brief(error)}") from error


def infer_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shapes of all values that are known; large weights are left out of the work."""
    light = onnx.ModelProto()
    light.opset_import.extend(model.opset_import)
    light.ir_version = max(model.ir_version, 4)
    graph, source = light.graph, model.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    weights = {tensor.name for tensor in source.initializer}
    graph.input.extend(value for value in source.input if value.name not in weights)
    graph.output.extend(source.output)
    for tensor in source.initializer:
        if tensor.ByteSize() <= _LARGE:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph = infer_types(light).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in source.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        shape = static_shape(value)
        if shape is not None:
            found[value.name] = shape
    return found


def static_shape(value: onnx.ValueInfoProto) -> Shape | None:
    """The shape of a tensor if all its axes are numbers."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if all(axis.HasField("dim_value") for axis in tensor.shape.dim):
        return tuple(axis.dim_value for axis in tensor.shape.dim)
    return None


def _fold_shapes(graph: onnx.GraphProto, known: Mapping[str, Shape]) -> bool:
    """Turn Shape and Size of what has a known shape into constants; tells whether there were any."""
    found = False
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") or node.domain not in ("", "ai.onnx") or node.input[0] not in known:
            continue
        shape = known[node.input[0]]
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        part = np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)
        value = part if node.op_type == "Shape" else np.array(np.prod(shape, dtype=np.int64))
        constant = helper.make_node("Constant", [], list(node.output), value=numpy_helper.from_array(value))
        node.CopyFrom(constant)
        found = True
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime warns of what it cannot optimise, which helps nobody here; errors are still told."""
    onnxruntime.set_default_logger_severity(_ERRORS)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)


def _choose_branches(graph: onnx.GraphProto) -> bool:
    """Put the branch that is taken in the place of an If whose condition is known; tells whether there was any."""
    numbers = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    found = False
    for index, node in enumerate(graph.node):
        if node.op_type != "If" or node.domain not in ("", "ai.onnx") or node.input[0] not in numbers:
            nodes.append(node)
            continue
        found = True
        wanted = "then_branch" if numpy_helper.to_array(numbers[node.input[0]]).any() else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        names = {name for inner in branch.node for name in inner.output if name}
        names.update(tensor.name for tensor in branch.initializer)
        renamed = {name: f"{node.output[0]}.{index}.{name}" for name in names}
        for inner in branch.node:
            _rename(inner, renamed)
        for tensor in branch.initializer:
            tensor.name = renamed[tensor.name]
        nodes += branch.node
        graph.initializer.extend(branch.initializer)
        for result, source in zip(node.output, branch.output, strict=True):
            nodes.append(helper.make_node("Identity", [renamed.get(source.name, source.name)], [result]))
    kept = [_copy_node(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return found


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Use other names for some values, in a node and in the graphs inside it."""
    for inner in [node, *(n for a in node.attribute for g in [a.g, *a.graphs] for n in nodes_of(g))]:
        inner.input[:] = [renamed.get(name, name) for name in inner.input]
        inner.output[:] = [renamed.get(name, name) for name in inner.output]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for value in graph.output:
                value.name = renamed.get(value.name, value.name)


def _copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute what depends on constants alone, drop what nobody reads, sort."""
    # Shapes were folded before: GraphSurgeon would overlook their bounds and drop casts that round.
    # Branches are chosen after: it would mix up the names of branches inside branches.
    options = {"fold_shapes": False, "flatten_subgraphs": False, "should_exclude_node": lambda node: node.op in _RANDOM}
    try:
        with G_LOGGER.suppress(), _quiet():
            graph = gs.import_onnx(model).cleanup().toposort()
            try:
                graph.fold_constants(error_ok=False, **options)
            except Exception:
                # One constant cannot be computed: compute the others one by one.
                graph.fold_constants(partitioning="recursive", **options)
            return gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    except Exception as error:
        raise CompileError(f"the constants of the model could not be computed: {brief(error)}") from error
