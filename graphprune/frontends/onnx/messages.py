"""From `onnx_ir.Model` to `onnx.ModelProto`, without the traces that the library leaves on the way."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir

from ...errors import GraphPruneError, UnsupportedModelError
from .checks import graphs_of

DECLARED = "graphprune.declared"
"""Key of a graph's `meta`: names of the values whose types were written in the message that it was read from."""


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, the bodies of functions, and all graphs in their nodes."""
    for body in (model.graph, *(function.graph for function in model.functions.values())):
        yield body
        yield from body.subgraphs()


def weight(model: ir.Model) -> int:
    """Bytes of the stored tensors of a model."""
    total = 0
    for graph in all_graphs(model):
        total += sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
        for node in graph:
            total += sum(
                a.value.nbytes for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR and a.value
            )
    return total


def to_proto(model: ir.Model, instead: Mapping[ir.Value, Any] | None = None) -> onnx.ModelProto:
    """The message of a model; `instead` are tensors to write for some initializers."""
    tensors = dict(instead or {})
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = tensors.get(value, value.const_value)
            if tensor is not None and tensor.name != value.name:  # writing would rename the tensor, which may be shared
                tensors[value] = _renamed(tensor, value.name)
    try:
        with _holding(tensors):
            proto = ir.to_proto(model)
    except Exception as error:  # the library raises whatever its parts raise
        root = _root(error)
        if isinstance(root, GraphPruneError):  # weights could not be read
            raise root from None
        raise UnsupportedModelError(f"the model cannot be written: {innermost(error)}") from error
    declared = model.graph.meta.get(DECLARED, frozenset())
    for place, graph in enumerate(graphs_of(proto)):
        _tidy(graph, declared if place == 0 else frozenset())
    return proto


def _renamed(tensor: Any, name: str | None) -> Any:
    if isinstance(tensor, ir.StringTensor):
        return ir.StringTensor(tensor.string_data(), shape=tensor.shape, name=name, doc_string=tensor.doc_string)
    return ir.LazyTensor(
        lambda: tensor,
        tensor.dtype,
        tensor.shape,
        name=name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


@contextmanager
def _holding(tensors: Mapping[ir.Value, Any]) -> Iterator[None]:
    """Initializers hold other tensors for a while."""
    before = {value: value.const_value for value in tensors}
    try:
        for value, tensor in tensors.items():
            value.const_value = tensor
        yield
    finally:
        for value, tensor in before.items():
            value.const_value = tensor


def _tidy(graph: onnx.GraphProto, declared: frozenset[str]) -> None:
    """Undo what the library adds: types of initializers that had none written, metadata of tensors written twice."""
    stored = {tensor.name for tensor in graph.initializer} - declared
    kept = [info for info in graph.value_info if info.name not in stored or info.doc_string or info.metadata_props]
    if len(kept) < len(graph.value_info):
        fresh = onnx.GraphProto(value_info=kept)
        graph.ClearField("value_info")
        graph.value_info.MergeFrom(fresh.value_info)
    tensors = [*graph.initializer, *(attr.t for node in graph.node for attr in node.attribute if attr.HasField("t"))]
    for tensor in tensors:
        if len(tensor.metadata_props) > 1:
            once = {entry.key: entry.value for entry in tensor.metadata_props}
            tensor.ClearField("metadata_props")
            for key, value in once.items():
                tensor.metadata_props.add(key=key, value=value)


def innermost(error: BaseException) -> str:
    """What the first of a chain of errors says, in one line."""
    return str(_root(error)).strip().split("\n")[0][:300] or type(error).__name__


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, GraphPruneError):
        error = error.__cause__
    return error


def stub(value: ir.Value, location: str, offset: int) -> ir.ExternalTensor:
    """What a message says of an initializer whose numbers lie elsewhere."""
    tensor: Any = value.const_value
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape),
        name=value.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
