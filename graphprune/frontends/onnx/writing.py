"""Read and write the stored tensors that one node of a model computes with."""

from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .tracing import constant_of, set_constant

Array = NDArray[Any]


def numbers_of(node: ir.Node, place: int) -> Array | None:
    """What an input holds; None for what is computed."""
    value = node.inputs[place] if place < len(node.inputs) else None
    tensor = None if value is None else _tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def write(model: ir.Model, node: ir.Node, place: int, numbers: Array) -> None:
    """Let an input hold other numbers of the same shape, in the element type that it has.

    Where other nodes read the same tensor, they keep it, and this one gets one of its own.
    """
    value = node.inputs[place]
    assert value is not None
    old = _tensor(value)
    assert old is not None
    if len(list(value.uses())) > 1 or value.is_graph_output():
        value = _twin(model, value)
        node.replace_input_with(place, value)
    fresh = np.ascontiguousarray(numbers).astype(old.dtype.numpy())
    set_constant(value, ir.Tensor(fresh, dtype=old.dtype, name=value.name))


def _tensor(value: ir.Value) -> Any:
    if value.const_value is not None:
        return value.const_value
    producer = value.producer()
    return constant_of(producer) if producer is not None and producer.op_type == "Constant" else None


def _twin(model: ir.Model, value: ir.Value) -> ir.Value:
    """A new initializer like a stored tensor."""
    taken = ir.convenience.create_value_mapping(model.graph, include_subgraphs=True)
    name = next(name for number in count(1) if (name := f"{value.name}/own.{number}") not in taken)
    twin = ir.Value(name=name, type=value.type, shape=value.shape, const_value=_tensor(value))
    model.graph.register_initializer(twin)
    return twin
